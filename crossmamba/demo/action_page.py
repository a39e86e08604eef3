"""The action demo's numbers as tables and as a page: the question source of every line, and what is not claimed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossmamba.demo.common import page_links, page_video, read_json
from crossmamba.questions.records import describe
from crossmamba.report import Curve, Line, Picture, Plot, Report, Table, environment_facts, read_curve

COLUMNS = ("verb", "noun", "action", "verb@5", "noun@5", "action@5")
SLOTS = ("verb", "noun", "action")
NAMES = {"video": "video only", "generic": "with questions", "predicted": "with questions"}
BOUNDS = {
    "one_frame": ("bound: one frame", "noun and movement known, not its direction in time"),
    "true_noun": ("bound: true noun", "the true noun known, the video not"),
}
AHEAD_BOUNDS = {
    "seen_past": ("bound: the seen past", "all that happened until one second before known exactly"),
    "last_action": ("bound: the last action", "the action before known exactly, nothing else"),
}
RECOGNITION_NOTE = (
    "Per cent of the segments whose class is the best, or (@5) among the best five. Each line says where its questions "
    "came from: none; generic, the same two for every clip; predicted, made from what the video-only model guesses. "
    "Questions of true labels (oracle) are not used here. Text only: the same model with its video taken away, and a "
    "linear model of the words alone. Class prior: the train split's frequencies."
)
AHEAD_NOTE = (
    "Official mean top-5 recall in per cent: the mean over classes of how often they are among the best five. The "
    "model sees 2.13 s that end one second before the action, and no question."
)
CAVEATS = (
    "The world is synthetic: a drawn hand acts on drawn things. The numbers cannot be compared with those of "
    "EPIC-KITCHENS-100, and a model trained here knows nothing of real kitchens.",
    "This is one seed, and a few minutes of training on a few hundred clips. Which line comes out ahead says little.",
    "The models with questions stand on the frozen tokens of the video-only model's encoder; only fusion, words and "
    "heads are trained with questions.",
    "Predicted questions of the train split come from a model that has learned these clips, so they are nearer to the "
    "truth than those of the test split.",
    "With sums of branches (shared A) nothing passes from the question to the video's scan: generic questions, alike "
    "for all clips, can only shift all scores by the same amounts.",
    "Every moment of a video gets an action, also while nothing happens: the models have seen clips of actions only.",
    "The best checkpoint was chosen on the validation split; the test split was scored once per line.",
)


def recognition_table(scores: dict[str, Any]) -> Table:
    """The lines of `scores.json` for recognition, per cent, each with its question source."""
    lines = []
    for name, label in NAMES.items():
        report = scores["models"][name]
        for perturbation, values in report["scores"].items():
            source = values["question_source"]
            if perturbation == "none":
                lines.append(Line(f"{label} ({source})", describe(source), _cells(values["accuracy"]), "run"))
            else:
                what = "its video taken away" if perturbation == "question_only" else "its questions taken away"
                lines.append(Line(f"text only ({source})", f"the same model, {what}", _cells(values["accuracy"])))
        if report["probe"]:
            source = report["question_source"]
            text = "a linear model of the questions' words"
            lines.append(Line(f"words alone ({source})", text, _cells(report["probe"])))
    lines.append(Line("class prior", "frequencies of the train split", _cells(scores["models"]["video"]["prior"])))
    for key, (label, text) in BOUNDS.items():
        if key in scores["ceilings"]["recognition"]:
            known = scores["ceilings"]["recognition"][key]
            values = [known[slot].get(measure) for measure in ("top1", "top5") for slot in SLOTS]
            lines.append(Line(label, text, values, "bound"))
    return Table(COLUMNS, lines, RECOGNITION_NOTE, bar=2)


def anticipation_table(scores: dict[str, Any]) -> Table:
    """The lines for anticipation: official mean top-5 recall, per cent."""
    report = scores["models"]["ahead"]
    accuracy = report["scores"]["none"]["accuracy"]
    lines = [
        Line(f"anticipation ({report['question_source']})", "a scan over what was seen", _ahead(accuracy), "run"),
        Line("class prior", "frequencies of the train split", _ahead(report["prior"])),
    ]
    for key, (label, text) in AHEAD_BOUNDS.items():
        known = scores["ceilings"]["anticipation"][key]
        lines.append(Line(label, text, [known[slot].get("mt5r") for slot in SLOTS], "bound"))
    return Table(SLOTS, lines, AHEAD_NOTE, bar=2)


def _cells(values: dict[str, float | None]) -> list[float | None]:
    return [_percent(values.get(column)) for column in COLUMNS]


def _ahead(values: dict[str, float | None]) -> list[float | None]:
    return [_percent(values.get(column)) for column in SLOTS]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def build_page(folder: Path, scores: dict[str, Any], facts: list[tuple[str, str]]) -> Report:
    """The report of a finished demo.

    Args:
        folder: of the demo. scores: of `scores.json`. facts: lines of "How it was made", to which the run's environment
            is added.
    """
    main = folder / "train" / "video"
    predicted = folder / "predict"
    film = predicted / "actions.mp4"
    there = (predicted / "result.json", film, folder / "scores.json", main / "metrics.csv")
    return Report(
        title="What is being done? A crossmamba demo of actions",
        lead="A small MambaVL learned on this machine to name verb and noun of what a hand does in synthetic kitchen "
        "videos, in EPIC-KITCHENS-100's layout: by the video alone, and with questions; and what begins one second "
        "later.",
        rows=(),
        tables=[recognition_table(scores), anticipation_table(scores)],
        plots=_plots(folder, scores),
        caveats=CAVEATS,
        facts=[*facts, *environment_facts(main / "environment.txt")],
        links=page_links(folder, *there),
        pictures=_pictures(predicted),
        **page_video(film, second=2.0),
    )


def _pictures(folder: Path) -> list[Picture]:
    """The timeline and the moment, where they were drawn."""
    truth, found = read_json(folder / "truth.json"), []
    timeline, moment = folder / "timeline.png", folder / "moment" / "clip.png"
    if timeline.exists():
        text = (
            "From above: the true segments, what the model says of windows of 2.13 s, and what the anticipating model "
            "said one second before. Colours are verbs."
        )
        found.append(Picture("A test video", timeline, text))
    if moment.exists():
        text = "The pictures that the model saw, and the probabilities of actions, verbs and nouns."
        found.append(Picture(f"The same video, around {truth.get('moment', 0):.2f} s", moment, text))
    return found


def _plots(folder: Path, scores: dict[str, Any]) -> list[Plot]:
    losses, accuracies = [], []
    for name, label in (("video", "video only"), ("generic", "generic"), ("predicted", "predicted")):
        table = folder / "train" / name / "metrics.csv"
        losses.append(Curve(label, read_curve(table, "train/loss")))
        accuracies.append(Curve(label, [(step, 100 * value) for step, value in read_curve(table, "val/action")]))
    prior = _percent(scores["models"]["video"]["prior"].get("action"))
    levels = [] if prior is None else [("class prior (test)", prior)]
    bars = [
        Curve(label, [(float(k), _percent(values[slot]) or 0.0) for k, slot in enumerate(SLOTS, start=1)])
        for label, values in (
            ("model", scores["models"]["ahead"]["scores"]["none"]["accuracy"]),
            ("class prior", scores["models"]["ahead"]["prior"]),
        )
    ]
    return [
        Plot("Training loss", "step", "verb and noun", losses),
        Plot("Validation split", "step", "actions right (%)", accuracies, levels),
        Plot("Anticipation", "1 verb, 2 noun, 3 action", "mean top-5 recall (%)", bars, bars=True),
    ]
