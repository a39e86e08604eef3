"""`crossmamba predict --task action`: what is done around a moment, or along a whole video, and what comes next."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from crossmamba.cli.outputs import clear, write_json
from crossmamba.errors import UsageError

if TYPE_CHECKING:
    from crossmamba.overlay import TimedName
    from crossmamba.predict import ActionPipeline, ActionResult, MomentResult
    from crossmamba.predict.action import Live

OUTPUTS = ("actions.mp4", "timeline.png", "clip.png", "stream.jsonl", "result.json")
TOP = 5
OPTIONS = ("at", "anticipation", "question_source", "verb_question", "noun_question", "window", "stride", "stream")
OPTIONS += ("annotations", "smooth")
"""Options of `crossmamba predict` that only models of actions have."""


def configure_actions(parser: argparse.ArgumentParser) -> None:
    """Adds the options of models of actions."""
    actions = parser.add_argument_group("for a model of actions")
    actions.add_argument(
        "--at", type=float, metavar="SECONDS", help="only the clip around this moment (default: the whole video)"
    )
    actions.add_argument(
        "--anticipation", metavar="RUN_OR_FOLDER", help="a second model, trained to say what begins one second ahead"
    )
    actions.add_argument(
        "--question-source",
        choices=("none", "generic"),
        help="ask nothing, or the same of every clip (default: as in training, if that can be had for a new video)",
    )
    actions.add_argument("--verb-question", metavar="TEXT", help="an own question whose answer is the verb")
    actions.add_argument("--noun-question", metavar="TEXT", help="an own question whose answer is the noun")
    actions.add_argument("--window", type=float, metavar="SECONDS", help="length of a clip (default 2.13)")
    actions.add_argument("--stride", type=float, metavar="SECONDS", help="from clip to clip (default 0.5)")
    actions.add_argument(
        "--smooth",
        type=float,
        metavar="NATS",
        help="what a change of action must be worth, in nats of one clip, for a segment to end there: all clips of the "
        "video are decided together (default 0.5); 0: every clip by itself. With --stream nothing looks ahead: a clip "
        "is decided by those before it (default 0)",
    )
    actions.add_argument(
        "--stream",
        action="store_true",
        default=None,
        help="frame by frame in constant memory, a line of JSON for each: to DIR/stream.jsonl, or without --out to "
        "standard output",
    )
    actions.add_argument(
        "--annotations",
        metavar="CSV",
        help="EPIC-KITCHENS-100 annotations with this video's true segments, which the timeline then shows too",
    )


def predict_actions(args: argparse.Namespace, pipeline: ActionPipeline, folder: Path | None) -> tuple[Any, str]:
    """Judges the moment or the video; returns the content of result.json and lines that sum it up.

    Raises:
        UsageError: an option of another task, or options that do not fit. MediaError: the video cannot be used.
    """
    top = TOP if args.top is None else args.top
    if top < 1:
        raise UsageError(f"--top is {top}; it must be at least 1")
    asked = pipeline.ask(args.question_source, verb=args.verb_question, noun=args.noun_question)
    ahead = None
    if args.anticipation:
        from crossmamba.predict import load_pipeline

        ahead = load_pipeline(args.anticipation, device=args.device)
        if ahead.task != "action":
            raise UsageError(f"--anticipation {args.anticipation} is a model for {ahead.task}, not for actions")
    truth = true_segments(args.annotations, args.video, pipeline) if args.annotations else []
    options = {"asked": asked, "ahead": ahead, "window": args.window}
    if args.at is not None:
        for name in ("stream", "stride", "smooth", "annotations"):
            if getattr(args, name) is not None:
                raise UsageError(f"--{name} is for the whole video; leave out --at, or leave out --{name}")
        moment = pipeline.at(args.video, args.at, **options)
        return _moment(args, moment, folder, top)
    options["smooth"] = args.smooth
    if args.stride is not None:
        options["stride"] = args.stride
    result = _judged(args, pipeline, folder, options)
    return _whole(args, result, folder, top, truth)


def _moment(args: argparse.Namespace, moment: MomentResult, folder: Path | None, top: int) -> tuple[Any, str]:
    described = moment.describe(top)
    if folder is not None:
        _ready(folder)
        if not args.no_overlay:
            moment.save_picture(folder / "clip.png", top)
        write_json(folder / "result.json", described)
    lines = []
    if described["clip"]:
        clip = described["clip"]
        lines += [f"at {args.at:.2f} s (clip of {clip['start']:.2f} to {clip['end']:.2f} s)", *_lines(clip)]
    if described["anticipation"]:
        later = described["anticipation"]
        lines += [f"begins at {later['begins_at']:.2f} s (seen until {later['seen_until']:.2f} s)", *_lines(later)]
    return described, "\n".join([*lines, _source(described)])


def _judged(
    args: argparse.Namespace, pipeline: ActionPipeline, folder: Path | None, options: dict[str, Any]
) -> ActionResult:
    """The result for a whole video; while streaming, lines are written as they come."""
    if not args.stream:
        print("crossmamba: judging", file=sys.stderr)
        result = pipeline(args.video, **options)
        if folder is not None:
            _ready(folder)
        return result
    if folder is None:
        return pipeline(args.video, **options, stream=True, each=_liner(pipeline, sys.stdout))
    _ready(folder)
    with open(folder / "stream.jsonl", "w", encoding="utf-8") as file:
        return pipeline(args.video, **options, stream=True, each=_liner(pipeline, file))


def _whole(
    args: argparse.Namespace, result: ActionResult, folder: Path | None, top: int, truth: list[TimedName]
) -> tuple[Any, str]:
    from tqdm import tqdm

    described = result.describe(top)
    if folder is not None and not args.no_overlay:
        result.save_timeline(folder / "timeline.png", truth)
        with tqdm(total=int(result.end), desc="drawing", unit="s", file=sys.stderr, disable=None) as bar:
            result.save_film(folder / "actions.mp4", lambda time: bar.update(int(time) - bar.n))
        described |= {"film": "actions.mp4", "timeline": "timeline.png"}
    if folder is not None:
        write_json(folder / "result.json", described)
    lines = [f"{entry['start']:8.2f} {entry['end']:8.2f} s  {_short(entry)}" for entry in described["segments"] or ()]
    if described["segments"] is None:
        lines.append("No segments: this model was trained to anticipate, not to recognise.")
    if described["anticipation"] is None:
        lines.append("No anticipations: --anticipation names a model that was trained for them.")
    else:
        gap = f"{described['anticipation']['gap']:g}"
        lines += [
            f"{entry['begins_at']:8.2f} s, said {gap} s before:  {_short(entry)}"
            for entry in described["anticipation"]["moments"]
        ]
    return described, "\n".join([*lines, _source(described), *_smoothing(described)])


def _ready(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder, OUTPUTS)


def _liner(pipeline: ActionPipeline, file: IO[str]) -> Any:
    """Writes a line for each picture of a stream."""

    def write(live: Live) -> None:
        verb, noun = live.said.best
        entry = {
            "time": round(live.time, 4),
            "kind": pipeline.kind,
            "window_start": round(live.start, 4),
            "frames": live.frames,
            "complete": live.number is not None,
            "verb": pipeline.names.verbs[verb],
            "noun": pipeline.names.nouns[noun],
            "probability": round(live.said.probability, 6),
        }
        if live.action is not None and live.action != (verb, noun):  # by online smoothing, at the end of a window
            entry["smoothed"] = {
                "verb": pipeline.names.verbs[live.action[0]],
                "noun": pipeline.names.nouns[live.action[1]],
            }
        print(json.dumps(entry), file=file, flush=True)

    return write


def true_segments(annotations: str, video: str, pipeline: ActionPipeline) -> list[TimedName]:
    """The segments of an annotation file that are of this video, by the file's name.

    Raises:
        UsageError: none is, or they have no labels. DataError: the file is wrong.
    """
    from crossmamba.data.epic.annotations import read_rows
    from crossmamba.overlay import TimedName

    verbs, nouns = pipeline.names.verbs, pipeline.names.nouns
    name = Path(video).stem
    rows = [row for row in read_rows(annotations, verbs=len(verbs), nouns=len(nouns)) if row.video_id == name]
    if not rows:
        raise UsageError(f"--annotations {annotations}: no segment of the video {name}; the file's name is its id")
    found = []
    for row in sorted(rows, key=lambda row: row.start_timestamp):
        if row.verb_class is None or row.noun_class is None:
            raise UsageError(f"--annotations {annotations}: its segments have no labels")
        found.append(
            TimedName(row.start_timestamp, row.stop_timestamp, verbs[row.verb_class], nouns[row.noun_class], 1.0)
        )
    return found


def _short(entry: dict[str, Any]) -> str:
    """`take cup 62 %`."""
    best = entry["actions"][0]
    verb, noun = entry.get("verb", best["verb"]), entry.get("noun", best["noun"])
    probability = entry.get("probability", best["probability"])
    sides = "; ".join(_listed(entry[key][:3]) for key in ("verbs", "nouns"))
    return f"{verb} {noun} {100 * probability:.0f} %  ({sides})"


def _lines(entry: dict[str, Any]) -> list[str]:
    actions = [{"name": f"{e['verb']} {e['noun']}", "probability": e["probability"]} for e in entry["actions"]]
    named = (("action", actions), ("verb", entry["verbs"]), ("noun", entry["nouns"]))
    return [f"  {name:7s} {_listed(entries)}" for name, entries in named]


def _listed(entries: list[dict[str, Any]]) -> str:
    return ", ".join(f"{entry['name']} {100 * entry['probability']:.0f} %" for entry in entries)


def _source(described: dict[str, Any]) -> str:
    return f"question source: {described['settings']['question_source']}"


def _smoothing(described: dict[str, Any]) -> list[str]:
    used = described["settings"].get("smoothing")
    if used is None:
        return []
    how = {"viterbi": "over the whole video", "online": "by what came before"}.get(used["kind"])
    return ["smoothing: none" if how is None else f"smoothing: {how}, a change costs {used['nats']:g} nats"]
