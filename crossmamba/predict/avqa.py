"""Questions about a video: answers with probabilities, and where and when the model looked for each.

    pipe = crossmamba.load_pipeline("runs/qa")
    result = pipe("clip.mp4", ["How many instruments are sounding in the video?"])
    result.answers[0].best                # ("two", 0.71)
    result.save_pictures("out")           # out/answer_1.png

The video's sound and pictures are read at the seconds that the model was trained with (`data.qa.features.frame_rows`:
T of at most 60, evenly spaced), and go through the feature encoders of its training (`predict.features`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossmamba import __version__
from crossmamba.data.media import DEFAULT_LIMITS, MediaInfo, MediaLimits, audio_blocks, frames_at
from crossmamba.data.qa.avqa_rows import NULL, choice_words
from crossmamba.data.qa.features import MAX_SECONDS, PICTURE_TIME, frame_rows
from crossmamba.data.qa.templates import ANSWERS
from crossmamba.data.qa.vocabulary import MUSIC_AVQA, UNKNOWN, Vocabulary
from crossmamba.errors import CheckpointError, MediaError, UsageError
from crossmamba.extract.reading import seconds_in
from crossmamba.predict.avqa_features import VideoFeatures
from crossmamba.predict.avqa_questions import kind_of_question, known_words
from crossmamba.predict.common import WithCard, check_video, pick_device

LOUDNESS_STEP = 0.1  # s
DRAWN_SIDE = 400  # pixels; frames are kept for drawing at most this large


@dataclass(frozen=True)
class Answer:
    """What the model says to one question.

    Attributes:
        question: as it was asked. words: as the model read it (empty for a model that takes sentence vectors).
        kind: (modality, kind) of the question, None if it is none of the 33 that MUSIC-AVQA knows.
        answers: every possible answer with its probability, the most probable first.
        spatial: float32 (T, h, w), where it looked in each second; each second sums to 1.
        audio, visual: float32 (T,), when it listened and looked; each sums to 1.
    """

    question: str
    words: list[str]
    kind: tuple[str, str] | None
    answers: list[tuple[str, float]]
    spatial: NDArray[np.float32]
    audio: NDArray[np.float32]
    visual: NDArray[np.float32]

    @property
    def best(self) -> tuple[str, float]:
        """The most probable answer."""
        return self.answers[0]

    def describe(self, seconds: Sequence[int], top: int) -> dict[str, Any]:
        """For `result.json`: the `top` best answers, and the maps; `seconds` are those that the model saw."""
        weights = zip(seconds, self.audio, self.visual, strict=True)
        return {
            "question": self.question,
            "type": None if self.kind is None else list(self.kind),
            "answer": self.best[0],
            "answers": [{"answer": name, "probability": round(value, 6)} for name, value in self.answers[:top]],
            "when": [
                {"second": int(second), "sound": round(float(sound), 6), "picture": round(float(picture), 6)}
                for second, sound, picture in weights
            ],
            "where": {
                "grid": list(self.spatial.shape[1:]),
                "weights": [[round(float(value), 6) for value in frame.flat] for frame in self.spatial],
            },
        }


@dataclass(frozen=True)
class AVQAResult:
    """The answers about one video.

    Attributes:
        path: the video. info: its header.
        answers: one for each question, in order.
        seconds: int (T,), which seconds the model saw.
        frames: T pictures of them, uint8 (H, W, 3). loudness: (n,) of the sound from 0 to 1, every 0.1 s.
        warnings: what a reader should know. model: what the card says. settings: of the pipeline.
    """

    path: Path
    info: MediaInfo
    answers: list[Answer]
    seconds: NDArray[np.int64]
    frames: list[NDArray[np.uint8]]
    loudness: NDArray[np.float32]
    warnings: list[str]
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def describe(self, top: int = 5) -> dict[str, Any]:
        """The content of `result.json`."""
        return {
            "format_version": 1,
            "crossmamba_version": __version__,
            "video": self.info.describe(),
            "model": dict(self.model),
            "settings": dict(self.settings),
            "warnings": self.warnings,
            "seconds": self.seconds.tolist(),
            "questions": [answer.describe(self.seconds.tolist(), top) for answer in self.answers],
        }

    def to_json(self, top: int = 5) -> str:
        """The description as JSON text."""
        return json.dumps(self.describe(top), indent=2)

    def save_pictures(self, folder: str | Path, top: int = 5) -> list[Path]:
        """Writes `answer_1.png`, ... and returns their paths; see `predict.drawing`.

        Raises:
            UsageError: matplotlib is not installed.
        """
        from crossmamba.predict.avqa_drawing import AnswerPicture, draw_answer

        paths = []
        for number, answer in enumerate(self.answers, start=1):
            content = AnswerPicture(
                question=answer.question,
                answers=answer.answers[:top],
                times=self.seconds + PICTURE_TIME,
                frames=self.frames,
                spatial=answer.spatial,
                audio=answer.audio,
                visual=answer.visual,
                loudness=self.loudness if self.loudness.any() else None,
                duration=len(self.loudness) * LOUDNESS_STEP,
                note=self._note(),
            )
            paths.append(Path(folder) / f"answer_{number}.png")
            draw_answer(paths[-1], content)
        return paths

    def _note(self) -> str:
        trained = self.model.get("trained_on")
        return f"{self.path.name}, answered by {self.model.get('name')}" + (
            f", trained on {trained}" if trained else ""
        )


class AVQAPipeline(WithCard):
    """A model with the features, words and answers it was trained with. Loads nothing; see `load_pipeline`.

    Args:
        model: an `AVQAModel`.
        preprocessing: `audio`, `visual`, `question` (kinds of input) and `frames` (T), and optionally `image_size`,
            `vocabulary`, `question_length`, `choice_length` and `answers`, as in a model folder's config.json.
        features: makes the model's inputs from a video.
        device: "cpu", "cuda", "mps", or "auto" for the fastest that is there.

    Raises:
        CheckpointError: the preprocessing lacks a value.
        UsageError: a device that is not there.
    """

    task = "avqa"

    def __init__(
        self, model: nn.Module, preprocessing: Mapping[str, Any], features: VideoFeatures, *, device: str = "cpu"
    ) -> None:
        missing = [key for key in ("audio", "visual", "question", "frames") if key not in preprocessing]
        if missing:
            raise CheckpointError(f"The model's preprocessing lacks {', '.join(missing)}; save it again with them.")
        self.device = pick_device(device)
        self.model = model.to(self.device).eval()
        self.features = features.to(self.device)
        self.preprocessing = dict(preprocessing)
        self.frames = int(preprocessing["frames"])
        self.vocabulary = _vocabulary(preprocessing, "question_length")
        self.choice_vocabulary = _vocabulary(preprocessing, "choice_length")
        self.answer_names = tuple(preprocessing.get("answers") or ANSWERS)

    @property
    def takes_choices(self) -> bool:
        """Whether the answers are given with each question (AVQA), not a fixed list (MUSIC-AVQA)."""
        return type(getattr(self.model, "head", None)).__name__ == "ChoiceHead"

    def __call__(
        self,
        path: str | Path,
        questions: Sequence[str],
        *,
        choices: Sequence[str] | None = None,
        allow_silence: bool = False,
        limits: MediaLimits = DEFAULT_LIMITS,
    ) -> AVQAResult:
        """Answers questions about a video; the video goes through the encoders once.

        Args:
            path: any container and codec that FFmpeg reads, with at least T whole seconds of picture.
            questions: one or more.
            choices: the possible answers, for a model that takes them; the same for all questions.
            allow_silence: treat a video without sound as silent instead of refusing it.
            limits: what the file may ask for.

        Raises:
            MediaError: the file cannot be used, or is too short.
            UsageError: no question, a word outside the vocabulary, choices missing or not wanted.
        """
        if not questions:
            raise UsageError("no question was asked")
        read = [self._read(question) for question in questions]  # what is wrong with these should not wait for a video
        offered, strange = self._offered(choices)
        info = check_video(path, allow_silence=allow_silence, limits=limits)
        rows, warnings = self._rows(Path(path), info)
        audio, visual = self.features(Path(path), rows, silent=info.sound is None)
        asked = self._asked(questions, read, self.vocabulary)
        names = tuple(choices) if choices else self.answer_names
        answers = self._answer(audio, visual, asked, offered, names, questions, read)
        warnings += [
            f"{question!r} is none of the 33 kinds of question that the model was trained on; its answer means little."
            for question, words in zip(questions, read, strict=True)
            if words and not self.takes_choices and kind_of_question(words) is None
        ]
        if strange := sorted({*strange, *(word for words in read for word in words if self._is_strange(word))}):
            warnings.append(f"The model was not trained on the words {', '.join(strange)}; it reads them all alike.")
        frames = _frames(Path(path), rows, limits)
        loudness = _loudness(Path(path), info, int(rows.max()) + 1, limits)
        model = {"name": self.card.get("name"), **self.card.get("metadata", {})}
        settings = {"frames": self.frames, "device": str(self.device), **self.features.describe()}
        return AVQAResult(Path(path), info, answers, rows, frames, loudness, warnings, model, settings)

    # Questions
    def _read(self, question: str) -> list[str]:
        """The question's words; empty for a model that takes sentence vectors. UsageError if a word is not known."""
        if self.preprocessing["question"] != "words":
            return []
        words = list(choice_words(question)) if self._as_avqa else known_words(question, self.vocabulary)
        self.vocabulary.encode(words, cut=self._as_avqa)
        return words

    @property
    def _as_avqa(self) -> bool:
        """Words are read as `data.qa.avqa` reads them: in small letters, new ones as one, and long texts are cut."""
        return self.takes_choices and UNKNOWN in self.vocabulary.numbers

    def _is_strange(self, word: str) -> bool:
        return self._as_avqa and word not in self.vocabulary.numbers

    def _offered(self, choices: Sequence[str] | None) -> tuple[Tensor | None, list[str]]:
        """(1, K, ...) of the choices, and words of theirs that the model does not know."""
        if not self.takes_choices:
            if choices:
                raise UsageError("this model answers from its own list of answers; leave --choice out")
            return None, []
        if not choices or len(choices) < 2:
            raise UsageError("this model chooses among answers that it is given: give --choice for each, four in AVQA")
        if self.preprocessing["question"] != "words":
            return self._asked(choices, [], self.choice_vocabulary)[None], []
        words = [list(choice_words(choice)) or [NULL] if self._as_avqa else self._read(choice) for choice in choices]
        strange = [word for line in words for word in line if self._is_strange(word)]
        return self._asked(choices, words, self.choice_vocabulary)[None], strange

    def _asked(self, texts: Sequence[str], words: Sequence[list[str]], vocabulary: Vocabulary) -> Tensor:
        """(B, L) word numbers, or (B, C) sentence vectors."""
        if self.preprocessing["question"] == "words":
            numbers = [vocabulary.encode(line, cut=self._as_avqa) for line in words]
            return torch.from_numpy(np.stack(numbers)).to(self.device)
        return self.features.questions(texts)

    # The video
    def _rows(self, path: Path, info: MediaInfo) -> tuple[NDArray[np.int64], list[str]]:
        """Which seconds the model sees, and what should be said about that."""
        seconds, warnings = min(seconds_in(info), MAX_SECONDS), []
        if seconds < self.frames:
            raise MediaError(
                f"{path}: the video has {seconds} whole second{'s' * (seconds != 1)}; this model looks at "
                f"{self.frames} seconds of a video: give a longer one."
            )
        end = (info.picture.end if info.picture else None) or 0.0
        if end >= MAX_SECONDS + 1:
            warnings.append(
                f"The video lasts {end:.1f} s; the model looks at the first {MAX_SECONDS} s, as in MUSIC-AVQA."
            )
        if info.sound is None:
            warnings.append("The video has no sound; it was treated as silent.")
        elif info.sound.end is not None and end - info.sound.end > 0.5:
            warnings.append(f"The sound ends at {info.sound.end:.2f} s; what follows was treated as silent.")
        return frame_rows(seconds, self.frames), warnings

    # The model
    def _answer(
        self,
        audio: Tensor,
        visual: Tensor,
        asked: Tensor,
        offered: Tensor | None,
        names: Sequence[str],
        questions: Sequence[str],
        read: Sequence[list[str]],
    ) -> list[Answer]:
        """Logits and maps of all questions at once, audio and visual being (1, T, ...)."""
        video = torch.zeros(len(questions), dtype=torch.int64, device=self.device)
        choices = None if offered is None else offered.expand(len(questions), *offered.shape[1:])
        with torch.inference_mode():
            logits = self.model(audio, visual, asked, choices=choices, video=video).logits.float().cpu()
        if not torch.isfinite(logits).all():
            raise CheckpointError("The model answers with values that are not finite: its weights are damaged.")
        if len(names) != logits.shape[1]:
            raise CheckpointError(
                f"The model has {logits.shape[1]} answers, its card names {len(names)}; save it again."
            )
        maps = self.model.explain(audio, visual, asked, choices=choices, video=video)
        answers = []
        for number, question in enumerate(questions):
            probability, order = logits[number].softmax(-1).sort(descending=True)
            kind = kind_of_question(read[number])
            answers.append(
                Answer(
                    question,
                    list(read[number]),
                    None if kind is None else (kind.modality, kind.kind),
                    [(names[int(index)], float(value)) for value, index in zip(probability, order, strict=True)],
                    *(_array(getattr(maps, name)[number]) for name in ("spatial", "audio", "visual")),
                )
            )
        return answers


def _vocabulary(preprocessing: Mapping[str, Any], length: str) -> Vocabulary:
    """The card's words; `length` names the entry that says how far a text is padded, as in training."""
    words = preprocessing.get("vocabulary")
    return Vocabulary(words, int(preprocessing.get(length, MUSIC_AVQA.length))) if words else MUSIC_AVQA


def _array(values: Tensor) -> NDArray[np.float32]:
    return values.detach().float().cpu().numpy()


def _frames(path: Path, rows: NDArray[np.int64], limits: MediaLimits) -> list[NDArray[np.uint8]]:
    """The pictures of the seconds, uint8 (H, W, 3), their aspect kept, at most `DRAWN_SIDE` pixels."""
    pictures = []
    for frame in frames_at(path, [float(row) + PICTURE_TIME for row in rows], hold=1.0, limits=limits):
        scale = min(1.0, DRAWN_SIDE / max(frame.size))
        pictures.append(frame.rgb((max(1, round(frame.size[0] * scale)), max(1, round(frame.size[1] * scale)))))
    return pictures


def _loudness(path: Path, info: MediaInfo, seconds: int, limits: MediaLimits) -> NDArray[np.float32]:
    """Root mean square of each tenth of a second of the first `seconds`, the loudest being 1."""
    steps = round(seconds / LOUDNESS_STEP)
    values = np.zeros(steps, np.float32)
    if info.sound is not None:
        for step, block in zip(range(steps), audio_blocks(path, 16000, LOUDNESS_STEP, limits), strict=False):
            values[step] = np.sqrt(np.mean(np.square(block))) if len(block) else 0.0
    return values / max(float(values.max()), 1e-9)
