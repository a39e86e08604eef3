"""A language model of transformers on this machine. Greedy, so the same prompt gives the same questions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from crossmamba.errors import CheckpointError, UsageError
from crossmamba.questions.chat import ChatError, Reply

__all__ = ["LocalChat"]


class LocalChat:
    """A causal language model with its tokenizer.

    Weights are read from safetensors only, and code that comes with a model is never run.

    Args:
        model: folder, or a name on the Hub. device: such as "cpu" or "cuda". max_tokens: of an answer.
        dtype: "auto" (as stored), "float32", "bfloat16" or "float16".

    Raises:
        CheckpointError: not readable. UsageError: an argument out of range, or no such device.
    """

    concurrency = 1

    def __init__(self, model: str | Path, *, device: str = "cpu", max_tokens: int = 120, dtype: str = "auto") -> None:
        if max_tokens < 1 or dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise UsageError(f"max_tokens is {max_tokens} and dtype {dtype!r}; see the help")
        from transformers import AutoModelForCausalLM, AutoTokenizer  # 3 seconds: not at package import

        folder = Path(model).expanduser()
        name, local = (str(folder), True) if folder.is_dir() else (str(model).removeprefix("hf://"), False)
        kind = dtype if dtype == "auto" else getattr(torch, dtype)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
            network: Any = AutoModelForCausalLM.from_pretrained(
                name, local_files_only=local, dtype=kind, use_safetensors=True
            )
        except Exception as error:  # damaged files raise many kinds
            raise CheckpointError(
                f"{model}: no language model that can be read ({' '.join(str(error).split())[:300]})"
            ) from error
        try:
            self._network = network.to(device).eval()
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"device {device!r} cannot be used: {error}") from error
        self.model, self._device, self._max_tokens = str(model), device, max_tokens
        self.params: Mapping[str, object] = {"max_tokens": max_tokens, "greedy": True, "dtype": dtype}
        self._lock = threading.Lock()
        self._stopped = False

    def complete(self, messages: list[dict[str, str]], *, json_object: bool) -> Reply:
        """The answer to the messages. `json_object` is only in the messages: nothing forces a local model.

        Raises:
            ChatError: the prompt is longer than the model's window, or the model failed.
        """
        with self._lock:
            if self._stopped:
                raise ChatError("stopped", fatal=True)
            try:
                ids = self._ids(messages)
                window = getattr(self._network.config, "max_position_embeddings", None)
                if window and ids.shape[1] + self._max_tokens > window:
                    raise ChatError(f"{ids.shape[1]} tokens and {self._max_tokens} more exceed the model's {window}")
                with torch.inference_mode():
                    made = self._network.generate(
                        ids,
                        attention_mask=torch.ones_like(ids),
                        max_new_tokens=self._max_tokens,
                        do_sample=False,
                        num_beams=1,
                        temperature=None,
                        top_p=None,
                        top_k=None,
                        pad_token_id=self._pad(),
                    )
            except (RuntimeError, IndexError) as error:
                raise ChatError(f"{self.model} failed: {error}") from error
        new = made[0, ids.shape[1] :]
        text = str(self._tokenizer.decode(new, skip_special_tokens=True))
        return Reply(text, int(ids.shape[1]), len(new), cut=self._cut(new))

    def close(self) -> None:
        """The answer under way is finished, no other is begun."""
        self._stopped = True

    def _cut(self, new: torch.Tensor) -> bool:
        """Whether an answer (tokens,) has all the tokens that it may have, and no end."""
        ends = self._network.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return len(new) == self._max_tokens and int(new[-1]) not in ends

    def _pad(self) -> int:
        for token in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def _ids(self, messages: list[dict[str, str]]) -> torch.Tensor:
        """int64 (1, tokens), by the model's chat template; without one the texts, a blank line between."""
        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            special = False  # the template writes them
        else:
            text, special = "\n\n".join(message["content"] for message in messages) + "\n\n", True
        ids = self._tokenizer(text, return_tensors="pt", add_special_tokens=special)["input_ids"]
        return ids.to(self._device)
