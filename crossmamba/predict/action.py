"""Actions in a video: what is done around a moment, segments along the whole video, what begins one second ahead.

    pipe = crossmamba.load_pipeline("runs/kitchen")
    pipe.at("clip.mp4", 12.5).actions()          # [("take", "cup", 0.62), ...]
    result = pipe("clip.mp4", ahead=crossmamba.load_pipeline("runs/kitchen_ahead"))
    result.save_film("actions.mp4")

A model was trained either to recognise what a clip shows or to anticipate what begins `gap` seconds after it; its card
says which, and a pipeline does that one thing. A recogniser never says what comes next: anticipations need a pipeline
of a model that was trained for them, given as `ahead`.

Along a whole video windows are smoothed together before segments are cut (`action_smoothing`); a stream, which must not
look ahead, only on demand and by what came before. Every moment of a video gets an action, also while nothing happens:
the model was trained on clips of actions only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from crossmamba.data.epic.sampling import sample_times
from crossmamba.data.epic.video import END_SLACK, pictures_at
from crossmamba.data.media import DEFAULT_LIMITS, MediaInfo, MediaLimits
from crossmamba.errors import CheckpointError, MediaError, UsageError
from crossmamba.extract.segments import load_token_encoder
from crossmamba.predict.action_model import CLIPS, ActionModel
from crossmamba.predict.action_names import Said, Window
from crossmamba.predict.action_questions import TOKENIZER, Asked
from crossmamba.predict.action_result import ActionResult, MomentResult
from crossmamba.predict.action_run import ActionRun, Live
from crossmamba.predict.action_smoothing import PENALTY, check_penalty, smoothed
from crossmamba.predict.action_windows import announced_end, end_of, grid_of, rate_of
from crossmamba.predict.avqa_features import ENCODERS
from crossmamba.predict.common import check_video

STRIDE = 0.5
"""Seconds wished between windows along a video."""


class ActionPipeline(ActionModel):
    """A model of actions, ready for videos; arguments as `ActionModel`. See `load_pipeline`."""

    task = "action"

    def at(
        self,
        path: str | Path,
        moment: float,
        *,
        asked: Asked | None = None,
        ahead: ActionPipeline | None = None,
        window: float | None = None,
        limits: MediaLimits = DEFAULT_LIMITS,
    ) -> MomentResult:
        """The actions of the clip around a moment; of an anticipation model, what begins `gap` after it.

        Args:
            path: any container and codec that FFmpeg reads.
            moment: seconds from the start. Near the ends the clip is moved into the video.
            asked: of `ask`; None for what suits the training.
            ahead: an anticipation pipeline, which sees what lies before the moment and nothing later.
            window: length of the recognised clip in seconds.
            limits: what the file may ask for.

        Raises:
            UsageError: a moment outside the video, or a pipeline that does not fit its role.
            MediaError: the file cannot be used.
        """
        _check_ahead(self, ahead)
        info = check_video(path, allow_silence=True, limits=limits)
        end = end_of(info)
        if not math.isfinite(moment) or moment < 0:
            raise UsageError(f"--at {moment:g}: give seconds from the start of the video")
        if end is not None and moment > end:
            announced = announced_end(info)
            if announced is not None and moment <= announced:
                raise MediaError(
                    f"{path}: --at {moment:g} lies in the {announced:.2f} s that the file announces, but its picture "
                    f"ends at {end:.2f} s: the file is cut off. Make a new copy, or name an earlier moment."
                )
            raise UsageError(f"--at {moment:g} is past the end: {path} lasts {end:.2f} s")
        asked = self.ask() if asked is None else asked
        span, said, pictures = self._judge_at(Path(path), info, moment, asked, window, limits)
        later = None
        if ahead is not None:
            later_asked = ahead.ask()
            seen, what, _ = ahead._judge_at(Path(path), info, moment, later_asked, None, limits)
            later = Window(*seen, what)
        recognised = self.kind == "recognition"
        own = Window(*span, said)
        return MomentResult(
            path=Path(path),
            info=info,
            moment=moment,
            now=own if recognised else None,
            later=later if recognised else own,
            gap=(ahead or self).sight.gap,
            names=self.names if recognised or ahead is None else ahead.names,
            later_names=(ahead or self).names,
            pictures=pictures,
            about=self._about(asked, ahead, {}),
        )

    def _judge_at(
        self,
        path: Path,
        info: MediaInfo,
        moment: float,
        asked: Asked,
        window: float | None,
        limits: MediaLimits,
    ) -> tuple[tuple[float, float], Said, list[Any]]:
        """((start, end), what the model says, the pictures) of the clip that belongs to a moment."""
        length = self.sight.window if window is None or self.kind == "anticipation" else window
        if not 0 < length < math.inf:
            raise UsageError(f"--window {length:g}: seconds above 0 are needed")
        if self.kind == "anticipation":
            start, until = moment - length, moment
            times = np.linspace(start, until, self.sight.frames).clip(0.0, None)
        else:
            end = end_of(info)
            latest = math.inf if end is None else max(0.0, end - length)
            start = min(max(0.0, moment - length / 2), latest)
            until = start + length if end is None else min(start + length, end)
            times = sample_times(start, until, rate_of(info), frames=self.sight.frames, mode=self.sight.mode)
        short = self.sight.transform.short_side
        pictures, _ = pictures_at(path, times.tolist(), short_side=short, hold=END_SLACK, limits=limits)
        if not pictures:
            raise MediaError(f"{path}: no picture can be read at {moment:g} s: the video ends before.")
        pictures += [pictures[-1]] * (self.sight.frames - len(pictures))
        (said,) = self.say([self.sight.transform(pictures)], asked)
        return (max(0.0, start), until), said, pictures

    def __call__(
        self,
        path: str | Path,
        *,
        asked: Asked | None = None,
        ahead: ActionPipeline | None = None,
        window: float | None = None,
        stride: float = STRIDE,
        smooth: float | None = None,
        stream: bool = False,
        each: Callable[[Live], None] | None = None,
        limits: MediaLimits = DEFAULT_LIMITS,
    ) -> ActionResult:
        """Segments along a whole video, and anticipations if there is a model for them.

        Args:
            path: any container and codec that FFmpeg reads, of any length.
            asked, ahead, window, limits: see `at`. stride: seconds between windows.
            smooth: what a change of action has to be worth, in nats (`action_smoothing`); 0 for every window by itself.
                None is 0.5, in a stream 0. Anticipations are never smoothed.
            stream: frame by frame in constant memory (`action_stream`): the same windows; smoothed, if at all, without
                looking ahead. each: then called after every picture.

        Raises:
            UsageError: a pipeline that does not fit its role, or cannot stream; a negative penalty or such.
            MediaError: the file cannot be used.
        """
        _check_ahead(self, ahead)
        if smooth is not None and self.kind == "anticipation":
            raise UsageError("--smooth joins what is recognised; this model anticipates, and has no segments")
        penalty = check_penalty((0.0 if stream else PENALTY) if smooth is None else smooth)
        info = check_video(path, allow_silence=True, limits=limits)
        found: dict[str, list[Window]] = {}
        bytes_kept, end, bad = {}, 0.0, 0
        asked = self.ask() if asked is None else asked
        for pipe in [self, *([] if ahead is None else [ahead])]:
            questions, live = (asked, penalty if stream else 0.0) if pipe is self else (None, 0.0)
            run = pipe.run(path, asked=questions, window=window, stride=stride, smooth=live, limits=limits)
            found[pipe.kind] = list(run.streamed(each if pipe is self else None) if stream else run.windows())
            end, bad = max(end, run.pictures.end), max(bad, run.pictures.bad_packets)
            if stream:
                bytes_kept[pipe.kind] = run.most_bytes
        windows = found.get("recognition")
        settings = {"stride": round(stride, 4), "stream": stream, **({"state_bytes": bytes_kept} if stream else {})}
        if windows is not None:
            kind = "none" if penalty == 0 else "online" if stream else "viterbi"
            settings["smoothing"] = {"kind": kind, "nats": penalty}
        about = self._about(asked, ahead, settings | {"window": window or self.sight.window})
        if bad:
            about["warnings"].append(f"{bad} damaged picture packets were passed over.")
        return ActionResult(
            path=Path(path),
            info=info,
            end=end,
            windows=windows,
            actions=None if windows is None else smoothed(windows, penalty, online=stream),
            ahead=found.get("anticipation"),
            gap=(ahead or self).sight.gap,
            names=self.names,
            ahead_names=(ahead or self).names,
            about=about,
            limits=limits,
        )

    def run(
        self,
        path: str | Path,
        *,
        asked: Asked | None = None,
        window: float | None = None,
        stride: float = STRIDE,
        smooth: float = 0.0,
        limits: MediaLimits = DEFAULT_LIMITS,
    ) -> ActionRun:
        """Opens a video to go through it window by window or frame by frame; see `ActionRun`, also for `smooth`."""
        info = check_video(path, allow_silence=True, limits=limits)
        length = self.sight.window if window is None or self.kind == "anticipation" else window
        grid = grid_of(self.sight.frames, self.sight.places, length, stride, rate_of(info))
        return ActionRun(self, Path(path), grid, self.ask() if asked is None else asked, limits, smooth)

    def _about(self, asked: Asked, ahead: ActionPipeline | None, settings: dict[str, Any]) -> dict[str, Any]:
        """What `result.json` says of models, settings and warnings."""
        facts: dict[str, Any] = {"model": self.describe(), "settings": {**settings, **asked.describe()}}
        facts["settings"] |= {"frames": self.sight.frames, "mode": self.sight.places, "device": str(self.device)}
        facts["warnings"] = list(asked.warnings)
        if ahead is not None:
            facts["anticipation_model"] = ahead.describe()
            facts["warnings"] += [f"Anticipation: {warning}" for warning in ahead.ask().warnings]
        return facts


def load_actions(
    model: nn.Module, folder: Path, weights: Mapping[str, str | Path], *, device: str = "cpu"
) -> ActionPipeline:
    """The pipeline of a loaded model.

    Args:
        model: of `from_pretrained(folder)`.
        weights: "tokenizer", the folder of RoBERTa's; and for a model on stored tokens, by its name, the weights of the
            video encoder that made them ("avion_b": file, folder, run), else FOLDER/encoders/NAME.safetensors.
        device: see `ActionPipeline`.

    Raises:
        UsageError: a name that the model has no use for. CheckpointError: the encoder is not given, or does not load.
    """
    card: dict[str, Any] = model.card  # type: ignore[assignment]  # `from_pretrained` gives it
    preprocessing, video = card.get("preprocessing", {}), str(card.get("preprocessing", {}).get("video") or CLIPS)
    name = video.removeprefix("tokens_").removesuffix("_anticipation") if video not in (CLIPS, "none") else None
    if unknown := sorted(set(weights) - {TOKENIZER, *([name] if name else [])}):
        wanted = f"; it takes {name}" if name else ""
        raise UsageError(f"--weights {unknown[0]}=...: this model has no use for them{wanted}")
    encoder = None
    if name is not None and getattr(model, "encoder", None) is None:
        own = folder / ENCODERS / f"{name}.safetensors"
        source = weights.get(name) or (own if own.is_file() else None)
        if source is None:
            raise CheckpointError(
                f"{folder}: the model reads stored tokens of {name}; to see a video it needs that encoder: give "
                f"--weights {name}=FILE, as it was given to `crossmamba data extract`"
            )
        frames, image = int(preprocessing["frames"]), int(preprocessing["image_size"])
        encoder, _ = load_token_encoder(name, str(source), frames=frames, image=image)
    return ActionPipeline(
        model,
        preprocessing,
        card.get("metadata", {}),
        device=device,
        encoder=encoder,
        folder=folder,
        weights=weights,
    )


def _check_ahead(pipeline: ActionPipeline, ahead: ActionPipeline | None) -> None:
    """Raises UsageError unless `ahead` was trained to anticipate, and `pipeline` to recognise."""
    if ahead is None:
        return
    if ahead.kind != "anticipation":
        raise UsageError(
            "--anticipation names a model that was trained to recognise: it cannot say what comes next. Give one that "
            "was trained with data.task=anticipation"
        )
    if pipeline.kind != "recognition":
        raise UsageError("the model anticipates by itself: leave --anticipation out")
