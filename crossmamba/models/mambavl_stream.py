"""MambaVL on a live stream: a frame in, the logits of everything since the start out, in constant memory.

The scan of the video runs forward in time, so the tokens of a frame go on from the scan's state after the frame before
(`SSMBranch.extend`: the operator's step update, or a scan from that state), and the mean over time is a running sum.
With an encoder that looks at no later frame and tokens in time-major order the result after frame t is the clip-wise
result of frames 0..t.

That holds for the fusions that read forward or take means: "shared_a", "separate_a", "concat" (the question is read
first, once), "mlp" and "none". CM-Mamba scans backward too, and attention looks at all tokens again: refused.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crossmamba.blocks.ssm_fusion import BranchMemory, SSMBranch, SSMFusion, masked_mean, mean_of_packed, pack_tokens
from crossmamba.errors import UsageError
from crossmamba.models.baselines.vl_fusion import ConcatFusion, FirstAlone, MLPFusion
from crossmamba.models.mambavl import MambaVL, MambaVLOutput, Question

STREAMING_FUSIONS = ("none", "mlp", "concat", "shared_a", "separate_a")


class MambaVLStream:
    """One stream, or B side by side. Carries no gradient.

    Args:
        model: in eval mode, with one of `STREAMING_FUSIONS`; its encoder streams (`VideoEncoder.streams`), or the
            frames come as tokens.
        by: "step", token by token through `selective_state_update`; "scan", one scan over a frame's tokens with the
            state handed on: the same numbers; None: "step" for frames of one token, else "scan". A frame of 16 tokens
            of width 64 took 1.3 and 0.6 ms on one CPU core, one of 196 tokens 20 and 1.0 ms.

    Raises:
        UsageError: a model that cannot stream; the message says why.
    """

    def __init__(self, model: MambaVL, *, by: str | None = None) -> None:
        if not isinstance(model.fusion, SSMFusion | ConcatFusion | MLPFusion | FirstAlone):
            raise UsageError(
                f"{type(model.fusion).__name__} needs the whole clip: streaming works with fusion "
                f"{', '.join(STREAMING_FUSIONS)}"
            )
        if model.training:
            raise UsageError("the model is in training mode: call model.eval() first")
        if by not in (None, "step", "scan"):
            raise UsageError(f"by is 'step', 'scan' or None, not {by!r}")
        order = getattr(model.encoder, "order", "time_major")
        if order != "time_major":
            raise UsageError(f"the encoder's tokens are in {order} order: a stream's come frame by frame (time_major)")
        self.model, self.by = model, by
        self.start()

    @torch.no_grad()
    def start(
        self,
        verb_question: Tensor | None = None,
        noun_question: Tensor | None = None,
        *,
        verb_mask: Tensor | None = None,
        noun_mask: Tensor | None = None,
    ) -> None:
        """Forgets all frames; the questions, arguments as `MambaVL.forward`, hold until the next start."""
        asked = self.model.question_tokens(verb_question, noun_question, verb_mask, noun_mask)
        self.frames, self._previous = 0, None
        if self.model.fusion.additive:
            self._lanes = [_lane(self.model, self.by)]
            self._terms = [self.model.text_term(question) for question in asked]
        else:  # the question is in the state, or in the layers: a lane for each of them
            self._lanes = [_asked_lane(self.model.fusion, q, self.by) for q in asked]
            self._terms = [None, None]

    @torch.no_grad()
    def step(self, frame: Tensor) -> MambaVLOutput:
        """The next frame.

        Args:
            frame: (B, 3, H, W), standardised as the encoder wants it; or its tokens (B, P, d_v).

        Returns:
            Logits of the stream up to this frame.

        Raises:
            UsageError: another shape, or an encoder that cannot work frame by frame.
        """
        tokens = self.model.video_tokens(self._encode(frame))
        name = "video" if self.model.fusion.additive else "fused"
        fused = [self.model.normed(name, lane.add(tokens)) for lane in self._lanes]
        both = fused * 2 if len(fused) == 1 else fused
        verb, noun = (
            x if term is None else x + self._matching(term, x) for x, term in zip(both, self._terms, strict=True)
        )
        self.frames += 1
        return self.model.classify(verb, noun)

    @property
    def state_bytes(self) -> int:
        """Bytes kept between two frames: the same after one frame and after a million."""
        kept = [self._previous, *self._terms, *(value for lane in self._lanes for value in lane.kept())]
        return sum(value.numel() * value.element_size() for value in kept if value is not None)

    def _encode(self, frame: Tensor) -> Tensor:
        if frame.dim() == 3:
            return frame
        if frame.dim() != 4:
            raise UsageError(f"frame is (B, 3, H, W), or its tokens (B, P, .), got {tuple(frame.shape)}")
        encoder = self.model.encoder
        if encoder is None or not encoder.streams:
            name = "a model without encoder" if encoder is None else f"{type(encoder).__name__} as it was built"
            raise UsageError(f"{name} cannot encode a single frame of a stream: give the frame's tokens (B, P, d)")
        tokens = encoder.step(frame, self._previous)
        self._previous = frame.clone()  # the caller may write the next frame into the same memory
        return tokens

    @staticmethod
    def _matching(term: Tensor, fused: Tensor) -> Tensor:
        if term.shape[0] not in (1, fused.shape[0]):
            raise UsageError(f"{fused.shape[0]} streams, but questions for {term.shape[0]}: one for all, or one each")
        return term


class _RunningMean:
    """Mean over all tokens so far (B, .), summed in float64 so that hours of frames lose nothing."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def add(self, y: Tensor) -> Tensor:
        """The next (B, P, .) -> the mean so far (B, .) in their dtype."""
        new = y.sum(dim=1, dtype=torch.float64)
        self.total, self.count = new if self.total is None else self.total + new, self.count + y.shape[1]
        return (self.total / max(1, self.count)).to(y.dtype)


class _MeanLane:
    """The video's tokens, averaged: fusion "none"."""

    def __init__(self) -> None:
        self.mean = _RunningMean()

    def add(self, tokens: Tensor) -> Tensor:
        """(B, P, d) -> (B, d)."""
        return self.mean.add(tokens)

    def kept(self) -> list[Tensor | None]:
        return [self.mean.total]


class _MLPLane(_MeanLane):
    """The mean of the video's tokens beside the question's, through the layers: fusion "mlp"."""

    def __init__(self, fusion: MLPFusion, question: Question | None) -> None:
        super().__init__()
        self.layers = fusion.layers
        self.asked: Tensor | None = None
        if question is not None:
            tokens, mask = question
            self.asked = masked_mean(tokens, mask if fusion.pad_mode == "masked" else None)
        self.parts = len(fusion.names)

    def add(self, tokens: Tensor) -> Tensor:
        """(B, P, d) -> (B, d)."""
        seen = super().add(tokens)
        if self.asked is not None and len(self.asked) != len(seen):
            raise UsageError(f"{len(seen)} streams, but the stream was started for {len(self.asked)}")
        rest = [] if self.parts == 1 else [torch.zeros_like(seen) if self.asked is None else self.asked]
        return self.layers(torch.cat([seen, *rest], dim=-1))

    def kept(self) -> list[Tensor | None]:
        return [*super().kept(), self.asked]


class _ScanLane:
    """The video's tokens through a branch: prepared, scanned on from the memory, averaged, last layer."""

    def __init__(
        self,
        branch: SSMBranch,
        by: str | None,
        prepare: Callable[[Tensor], Tensor],
        *,
        A_log: Tensor | None = None,
        memory: BranchMemory | None = None,
        before: Tensor | None = None,
    ) -> None:
        self.branch, self.by, self.prepare, self.A_log = branch, by, prepare, A_log
        self.memory, self.before, self.mean = memory, before, _RunningMean()

    def add(self, tokens: Tensor) -> Tensor:
        """(B, P, d) -> (B, d), `before` (the question's mean, (B, D)) added ahead of the last layer."""
        tokens = self.prepare(tokens)
        memory = self.branch.start(tokens.shape[0]) if self.memory is None else self.memory
        if memory.state.shape[0] != tokens.shape[0]:
            raise UsageError(f"{tokens.shape[0]} streams, but the stream was started for {memory.state.shape[0]}")
        by = self.by or ("step" if tokens.shape[1] == 1 else "scan")
        y, self.memory = self.branch.extend(tokens, memory, A_log=self.A_log, by=by)
        mean = self.mean.add(y)
        return self.branch.out_proj(mean if self.before is None else mean + self.before)

    def kept(self) -> list[Tensor | None]:
        memory = [] if self.memory is None else [self.memory.window, self.memory.state]
        return [*memory, self.before, self.mean.total]


def _lane(model: MambaVL, by: str | None) -> _MeanLane | _ScanLane:
    """What an additive fusion does with the video."""
    fusion = model.fusion
    if not isinstance(fusion, SSMFusion):
        return _MeanLane()
    return _ScanLane(fusion.branches["video"], by, lambda tokens: fusion.project("video", tokens), A_log=fusion.A_log)


def _asked_lane(fusion: ConcatFusion | MLPFusion, question: Question | None, by: str | None) -> _MLPLane | _ScanLane:
    """What holds a question already: its mean; or the one sequence, of whose question memory and mean are left."""
    if isinstance(fusion, MLPFusion):
        return _MLPLane(fusion, question)
    branch = fusion.branch

    def prepare(tokens: Tensor) -> Tensor:
        return fusion.sequence({"video": tokens})[0]

    if question is None:
        return _ScanLane(branch, by, prepare)
    x, mask, _ = fusion.sequence({"text": question[0]}, {"text": question[1]})
    packed, lengths = pack_tokens(x, mask)
    y, memory = branch.extend(packed, branch.start(len(x)), lengths=lengths, by="scan")
    return _ScanLane(branch, by, prepare, memory=memory, before=mean_of_packed(y, lengths))
