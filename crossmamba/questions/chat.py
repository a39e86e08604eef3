"""What a language model is for this package: something that completes messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from crossmamba.errors import CrossmambaError

__all__ = ["Chat", "ChatError", "Reply"]


class ChatError(CrossmambaError):
    """No answer to one request, after all retries.

    Args:
        reason: one line. fatal: further requests would end alike (wrong key, no such model, nobody answers).
    """

    def __init__(self, reason: str, *, fatal: bool = False) -> None:
        super().__init__(" ".join(reason.split()))
        self.fatal = fatal


@dataclass(frozen=True)
class Reply:
    """A completion.

    Attributes:
        text: may be empty: a model that thinks first may spend all its tokens on that.
        tokens_in, tokens_out: what it cost, as the server counts; 0 where it does not say.
        cut: the model stopped because `max_tokens` were used up, not because it was done.
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    cut: bool = False


class Chat(Protocol):
    """A language model. `complete` may be called from `concurrency` threads at once.

    `params` is everything beside model and messages that the answer depends on.
    """

    model: str
    concurrency: int

    @property
    def params(self) -> Mapping[str, object]: ...

    def complete(self, messages: list[dict[str, str]], *, json_object: bool) -> Reply:
        """The answer to the messages; `json_object`: it is to be a JSON object.

        Raises:
            ChatError: none came.
        """

    def close(self) -> None:
        """Ends what is under way, so that its threads return soon."""
