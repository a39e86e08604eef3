"""`crossmamba predict --question`: answers, a picture of where and when the model looked for each, result.json."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossmamba.cli.outputs import clear, write_json
from crossmamba.errors import UsageError

if TYPE_CHECKING:
    from crossmamba.predict import AVQAPipeline

OUTPUTS = ("answer_*.png", "result.json")
TOP = 5


def parse_weights(pairs: Sequence[str] | None) -> dict[str, str]:
    """`NAME=PATH` arguments as a dict.

    Raises:
        UsageError: one without a name or a path.
    """
    weights = {}
    for pair in pairs or ():
        name, _, path = pair.partition("=")
        if not name or not path:
            raise UsageError(f"--weights {pair}: give NAME=PATH, for example vggish=vggish-10086976.pth")
        weights[name] = path
    return weights


def predict_answers(args: argparse.Namespace, pipeline: AVQAPipeline, folder: Path) -> tuple[dict[str, Any], str]:
    """Answers the questions; returns the content of result.json and lines that sum it up.

    Raises:
        UsageError: no question, a word that the model does not know, an option of segmentation.
        MediaError: the video cannot be used.
    """
    if args.threshold is not None or args.probabilities:
        raise UsageError("--threshold and --probabilities are for models that mark what sounds; this one answers")
    if not args.question:
        raise UsageError(
            'this model answers questions: give --question "How many instruments are sounding in the video?" '
            "(more than once for more questions)"
        )
    top = TOP if args.top is None else args.top
    if top < 1:
        raise UsageError(f"--top is {top}; it must be at least 1")
    result = pipeline(args.video, args.question, choices=args.choice, allow_silence=args.allow_silence)
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder, OUTPUTS)
    described = result.describe(top)
    if not args.no_overlay:
        print("crossmamba: drawing", file=sys.stderr)
        pictures = result.save_pictures(folder, top)
        for entry, picture in zip(described["questions"], pictures, strict=True):
            entry["picture"] = picture.name
    write_json(folder / "result.json", described)
    lines = []
    for answer in result.answers:
        others = ", ".join(f"{name} {100 * value:.0f} %" for name, value in answer.answers[1:top])
        lines.append(f"{answer.question}\n  {answer.best[0]} ({100 * answer.best[1]:.0f} %); then {others}")
    return described, "\n".join(lines)
