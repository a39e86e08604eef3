"""MambaVL: the verb and the noun of an action, from a clip and one question for each (arXiv 2409.11513, ICASSP 2025).

Symbols (paper -> here):
    V        clip (B, 3, T, H, W), or its tokens, stored (B, L, d_v); projected (B, L, d)
    T        a question as tokens (B, 40, .), see models/mambavl_text.py; projected (B, 40, d)
    d        width                      verb logits (B, 97)             noun logits (B, 300)
    (ours)   `action_classes`: a third head over actions, see models/mambavl_actions.py; the paper and its layouts: none

The questions are never joined (spec §1.2): the verb's logits read the video and the verb question (in which the noun is
masked), the noun's logits the video and the noun question (in which the verb is masked). The video passes once, and one
text side, one fusion serve both questions.

With the paper's fusion (`fusion="shared_a"`) the logits are additive, g(video) + h(question) + b: no information passes
between the modalities, whatever A they share (blocks/ssm_fusion.py). The other values of `fusion` are
`models.baselines.vl_fusion.VL_FUSIONS`, on the same tokens.

Either side may be missing: `video=None` is the model that reads the question alone (what the questions give away), no
question the one that only looks. One question alone leaves the other head with the video.

Where the values come from (spec §1): dims, one Mamba a modality, text layers and heads from the released code, as the
paper states none; the mask on padding and Mamba's own initialisation are ours, `pad_mode="official"` and
`init="official"` the code's. ORViT is not rebuilt here (boxes and trajectory attention): `mambavl_orvit_features` reads
its stored tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossmamba.blocks.ssm_fusion import INITS, check_choice, official_init_, sum_terms
from crossmamba.encoders import VideoEncoder, build_video_encoder
from crossmamba.errors import UsageError
from crossmamba.models.baselines.vl_fusion import build_vl_fusion
from crossmamba.models.mambavl_actions import ActionHead
from crossmamba.models.mambavl_text import TextSide, build_text_side
from crossmamba.models.registry import register_model

VERBS, NOUNS = 97, 300
"""Classes of EPIC-KITCHENS-100."""

VIDEO_PROJECTIONS = ("auto", "none", "linear", "mlp", "pre_logits")

Question = tuple[Tensor, Tensor | None]
"""Projected tokens (B, L, d) and their mask, bool (B, L) or None."""


@dataclass
class MambaVLOutput:
    """What a model returns: logits `verb` (B, 97) and `noun` (B, 300); `action` (B, places) with a head for them, whose
    first columns are `known_actions(model)`."""

    verb: Tensor
    noun: Tensor
    action: Tensor | None = None


class MambaVL(nn.Module):
    """Video side, text side, fusion, two linear heads; `mambavl` builds it.

    Args:
        encoder: clip to tokens, or None for stored tokens only. text: questions to tokens, or None for no text.
        fusion: `SSMFusion` or a `TokenFusion` over "video" and "text" (or "video" alone without text).
        video_dim: d_v. width: d. video_proj, text_proj: the layers to d. head_dropout: before both heads.
        fused_norm: a LayerNorm ahead of the heads (ours): on the fused vector, or on each term where that is a sum of
            terms, so that the logits stay additive.
        action_classes: places of an `ActionHead` beside the two; None or 0: no such head.
    """

    def __init__(
        self,
        encoder: VideoEncoder | None,
        text: TextSide | None,
        fusion: nn.Module,
        *,
        video_dim: int,
        width: int,
        video_proj: nn.Module,
        text_proj: nn.Module,
        verbs: int = VERBS,
        nouns: int = NOUNS,
        head_dropout: float = 0.0,
        fused_norm: bool = False,
        action_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.text, self.fusion = encoder, text, fusion
        self.video_dim, self.width = video_dim, width
        self.video_proj, self.text_proj = video_proj, text_proj
        normed = () if not fused_norm else ("fused",) if not fusion.additive else ("video", "text")
        if text is None:
            normed = tuple(name for name in normed if name != "text")
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in normed})
        self.head_dropout = nn.Dropout(head_dropout)
        self.verb_head, self.noun_head = nn.Linear(width, verbs), nn.Linear(width, nouns)
        self.action_head = ActionHead(width, action_classes) if action_classes else None

    @property
    def needs(self) -> dict[str, Any]:
        """What inputs look like: "video" is "clip" or "tokens" (where "clip", stored tokens will do too), "video_dim"
        the width of stored tokens, "question" is "words", "roberta", "stored" or None."""
        return {
            "video": "tokens" if self.encoder is None else "clip",
            "video_dim": self.video_dim,
            "question": None if self.text is None else self.text.needs,
        }

    def forward(
        self,
        video: Tensor | None,
        verb_question: Tensor | None = None,
        noun_question: Tensor | None = None,
        *,
        verb_mask: Tensor | None = None,
        noun_mask: Tensor | None = None,
        video_mask: Tensor | None = None,
    ) -> MambaVLOutput:
        """Logits of B clips.

        Args:
            video: clip (B, 3, T, H, W), standardised as its encoder wants it; or stored tokens (B, L, d_v); or None.
            verb_question, noun_question: ids (B, L) or stored vectors (B, L, .), see `needs`; or None.
            verb_mask, noun_mask: bool (B, L), True at real tokens; None: all but padding ids.
            video_mask: bool (B, L) over the video's tokens; None: all are real.

        Raises:
            UsageError: nothing to read, or shapes that do not fit the model.
        """
        sizes = [x.shape[0] for x in (video, verb_question, noun_question) if x is not None]
        if not sizes:
            raise UsageError("video and both questions are None: a model needs at least one of them")
        if len(set(sizes)) > 1:
            raise UsageError(f"video and questions are of batches of {sizes}: each clip has its own question")
        if video is None and len(sizes) == 1:
            raise UsageError("without a video both heads need a question; only one is given")
        seen = None if video is None else self.video_tokens(video)
        questions = self.question_tokens(verb_question, noun_question, verb_mask, noun_mask)
        verb, noun = self._fused(seen, video_mask, questions)
        return self.classify(verb, noun)

    def classify(self, verb: Tensor, noun: Tensor) -> MambaVLOutput:
        """The two fused vectors (B, d) -> logits."""
        verb, noun = self.head_dropout(verb), self.head_dropout(noun)
        action = None if self.action_head is None else self.action_head(verb, noun)
        return MambaVLOutput(self.verb_head(verb), self.noun_head(noun), action)

    def video_tokens(self, video: Tensor) -> Tensor:
        """A clip (B, 3, T, H, W) or stored tokens (B, L, d_v) -> (B, L, d). UsageError for another shape."""
        if video.dim() == 5:
            if self.encoder is None:
                raise UsageError(
                    f'this model was built with video="features" and takes stored tokens (B, L, {self.video_dim}), '
                    f"got a clip {tuple(video.shape)}"
                )
            video = self.encoder(video).tokens
        if video.dim() != 3 or video.shape[2] != self.video_dim:
            raise UsageError(
                f"video is a clip (B, 3, T, H, W) or tokens (B, L, {self.video_dim}), got {tuple(video.shape)}: "
                "tokens of another encoder?"
            )
        return self.video_proj(video)

    def question_tokens(
        self,
        verb_question: Tensor | None,
        noun_question: Tensor | None,
        verb_mask: Tensor | None = None,
        noun_mask: Tensor | None = None,
    ) -> tuple[Question | None, Question | None]:
        """Both questions projected to (B, L, d), with their masks; None where there is none. Arguments as `forward`.

        Raises:
            UsageError: a model without text, a mask without question, or questions that do not fit.
        """
        for name, question, mask in (("verb", verb_question, verb_mask), ("noun", noun_question, noun_mask)):
            if question is None and mask is not None:
                raise UsageError(f"{name}_mask is given without {name}_question")
        if verb_question is None and noun_question is None:
            return None, None
        if self.text is None:
            raise UsageError(
                "this model reads no questions (fusion='none' or text='none'): give it None, or build it with text"
            )
        both = verb_question is not None and noun_question is not None
        if both and verb_question.shape == noun_question.shape and (verb_mask is None) == (noun_mask is None):
            mask = None if verb_mask is None or noun_mask is None else torch.cat([verb_mask, noun_mask])
            tokens, mask = self._asked(torch.cat([verb_question, noun_question]), mask)  # one pass for both
            masks = (None, None) if mask is None else mask.chunk(2)
            return tuple(zip(tokens.chunk(2), masks, strict=True))  # type: ignore[return-value]
        pairs = ((verb_question, verb_mask), (noun_question, noun_mask))
        verb, noun = (None if question is None else self._asked(question, mask) for question, mask in pairs)
        return verb, noun

    def _asked(self, question: Tensor, mask: Tensor | None) -> Question:
        assert self.text is not None
        tokens, mask = self.text(question, mask)
        return self.text_proj(tokens), mask

    def normed(self, name: str, vector: Tensor, mask: Tensor | None = None) -> Tensor:
        """A term ("video", "text") or the whole ("fused") as the heads read it, (B, d); mask (B, L) of its tokens: a
        sample without any has no term, and no bias of the norm either."""
        if name not in self.norms:
            return vector
        vector = self.norms[name](vector)
        if mask is None or self.fusion.pad_mode == "official":
            return vector
        return vector * mask.any(dim=1, keepdim=True)

    def text_term(self, question: Question | None) -> Tensor | None:
        """The question's term (B, d) of an additive fusion, None without question."""
        if question is None:
            return None
        tokens, mask = question
        return self.normed("text", self.fusion.terms({"text": tokens}, {"text": mask})["text"], mask)

    def _fused(
        self, seen: Tensor | None, video_mask: Tensor | None, questions: tuple[Question | None, Question | None]
    ) -> tuple[Tensor, Tensor]:
        """(B, d) for the verb and for the noun."""
        video, masks = ({} if seen is None else {"video": seen}), ({} if seen is None else {"video": video_mask})
        if self.fusion.additive:  # the video's term once
            terms = {name: self.normed(name, term, video_mask) for name, term in self._video_term(video, masks).items()}
            verb, noun = (
                sum_terms(terms if q is None else {**terms, "text": self.text_term(q)})  # type: ignore[dict-item]
                for q in questions
            )
            return verb, noun
        if questions == (None, None):
            fused = self.normed("fused", self.fusion(video, masks))
            return fused, fused
        verb, noun = (
            self.fusion(video, masks) if q is None else self.fusion({**video, "text": q[0]}, {**masks, "text": q[1]})
            for q in questions
        )
        return self.normed("fused", verb), self.normed("fused", noun)

    def _video_term(self, video: dict[str, Tensor], masks: dict[str, Tensor | None]) -> dict[str, Tensor]:
        return self.fusion.terms(video, masks) if video else {}


class PreLogits(nn.Module):
    """Linear and tanh on every token, as ORViT has it behind its last norm (spec §1.1)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, dim) -> (B, L, width)."""
        return torch.tanh(self.fc(tokens))


def build_video_projection(name: str, dim: int, width: int) -> nn.Module:
    """ "none", "linear", "mlp" (Linear, ReLU, Linear), "pre_logits" (Linear, tanh), or "auto": none where the widths
    match, else linear. UsageError for another name, or "none" between different widths."""
    if name not in VIDEO_PROJECTIONS or (name == "none" and dim != width):
        raise UsageError(
            f"video_proj is one of {', '.join(VIDEO_PROJECTIONS)}, 'none' only where widths match; got {name!r} "
            f"from {dim} to {width}"
        )
    if name == "none" or (name == "auto" and dim == width):
        return nn.Identity()
    if name == "pre_logits":
        return PreLogits(dim, width)
    if name == "mlp":
        return nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width))
    return nn.Linear(dim, width)


def mambavl(
    *,
    video: str = "features",
    video_dim: int = 768,
    video_args: dict[str, Any] | None = None,
    video_proj: str = "auto",
    text: str = "roberta_embeddings",
    text_dim: int = 768,
    text_args: dict[str, Any] | None = None,
    words: int = 512,
    question_length: int = 40,
    fusion: str = "shared_a",
    width: int = 768,
    d_state: int = 16,
    d_conv: int = 4,
    expand: int = 2,
    scan_args: dict[str, Any] | None = None,
    init: str = "paper",
    pad_mode: str = "masked",
    pool_first: bool = True,
    guide_norm: bool = True,
    positions: int = 5000,
    drop_path: float = 0.0,
    fused_norm: bool = False,
    head_dropout: float = 0.0,
    verbs: int = VERBS,
    nouns: int = NOUNS,
    action_classes: int | None = None,
) -> MambaVL:
    """Builds MambaVL: the paper's fusion by default.

    Args:
        video: a name of `VIDEO_ENCODERS` with `video_args`, or "features" for stored tokens of `video_dim` numbers.
            A model with an encoder takes its stored tokens too.
        video_proj: see `build_video_projection`.
        text: "words" (`words` in the vocabulary, `question_length`), "roberta_embeddings", "roberta_encoder" (both with
            `text_args`), "stored" (vectors of `text_dim` numbers) or "none"; with fusion "none" there is no text side.
        fusion: one of `VL_FUSIONS`. width: d.
        d_state, d_conv, expand, scan_args: of the scans; `scan_args` may hold dt_rank, dt_min, dt_max, backend and the
            like (see `Mamba`).
        init: "paper", or "official" for the released constructors, which undo Mamba's initialisation and RoBERTa's
            weights (see `official_init_`; the video encoder is spared, as there).
        pad_mode, pool_first: see `SSMFusion`. guide_norm, positions: see `build_vl_fusion`.
        drop_path: of the fusion: of the Transformers' layers, or whole terms of `SSMFusion`. The video encoder's own,
            if it has one, is in `video_args`.
        fused_norm: see `MambaVL`; for narrow models that learn from scratch: without it SSM-Fusion's vector starts at a
            tenth to a thirtieth of the size of the others'.
        head_dropout: before all heads. verbs, nouns: classes.
        action_classes: see `MambaVL`.

    Raises:
        UsageError: an unknown value; the message names the allowed ones.
    """
    check_choice("init", init, INITS)
    encoder = None if video == "features" else build_video_encoder(video, **(video_args or {}))
    if encoder is None and video_args:
        raise UsageError(f'video="features" has no options, got {", ".join(video_args)}')
    dim = video_dim if encoder is None else encoder.dim
    side, text_proj = build_text_side(
        "none" if fusion == "none" else text,
        width,
        words=words,
        length=question_length,
        dim=text_dim,
        **({} if fusion == "none" else text_args or {}),
    )
    joined = build_vl_fusion(
        fusion,
        ("video",) if side is None else ("video", "text"),
        width,
        pad_mode=pad_mode,
        pool_first=pool_first,
        guide_norm=guide_norm,
        positions=positions,
        drop_path=drop_path,
        **{"d_state": d_state, "d_conv": d_conv, "expand": expand, **(scan_args or {})},
    )
    model = MambaVL(
        encoder,
        side,
        joined,
        video_dim=dim,
        width=width,
        video_proj=build_video_projection(video_proj, dim, width),
        text_proj=text_proj,
        verbs=verbs,
        nouns=nouns,
        head_dropout=head_dropout,
        fused_norm=fused_norm,
        action_classes=action_classes,
    )
    if init == "official":
        heads = (model.verb_head, model.noun_head, model.action_head)
        for part in (side, text_proj, joined, model.video_proj, model.norms, *heads):
            if part is not None:
                official_init_(part)
    return model


for _name in ("videomae_b", "timesformer_b", "vivit_b", "clip_b", "avion_b", "lavila_b"):
    register_model(f"mambavl_{_name}", mambavl, video=_name)
for _name in ("vjepa2_l", "avion_l"):
    register_model(f"mambavl_{_name}", mambavl, video=_name, width=1024)
register_model("mambavl_orvit_features", mambavl, video_proj="pre_logits")
register_model(
    "mambavl_small",
    mambavl,
    video="small_video",
    text="words",
    width=64,
    d_state=8,
    scan_args={"dt_min": 0.01, "dt_max": 0.5},  # so that the scan weighs as much as its skip from the start
    positions=1024,
    fused_norm=True,
)
