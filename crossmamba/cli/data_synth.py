"""`crossmamba data synth`: renders a synthetic data set."""

from __future__ import annotations

import argparse
import json
import os

AVSBENCH = ("avsbench-ms3", "avsbench-s4")
MUSIC_AVQA = "music-avqa"
EPIC100 = "epic100"

HELP = "render a synthetic world to files in the layout of AVSBench, MUSIC-AVQA or EPIC-KITCHENS-100"
DESCRIPTION = (
    "Renders a synthetic world to files in a data set's layout:\n"
    "  avsbench-ms3, avsbench-s4  objects that sound: PNG, wav, csv, masks, optionally mp4\n"
    "  music-avqa                 concerts with questions: mp4, json, scene truth, ceilings\n"
    "  epic100                    a hand acting on things: long mp4, csv, class tables, truth, ceilings\n"
    "The same seed gives the same bytes for csv, json, masks and wav."
)
EXAMPLE = """crossmamba data synth avsbench-ms3 data/synthetic --clips 1000,100,300 --seed 0
  crossmamba data synth music-avqa data/concerts --videos 800,100,200 --seed 0
  crossmamba data synth epic100 data/kitchen --videos 30,10,5 --seed 0"""

_AVSBENCH_OPTIONS = ("seconds", "clips", "world", "mp4", "log_mel")
_OPTIONS = {
    **dict.fromkeys(AVSBENCH, _AVSBENCH_OPTIONS),
    MUSIC_AVQA: ("seconds", "videos", "questions_per_video", "instruments", "split_by"),
    EPIC100: ("videos", "segments", "fps"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("dataset", choices=tuple(_OPTIONS))
    parser.add_argument("out", metavar="OUT", help="folder to make; must be new or empty unless --overwrite")
    parser.add_argument("--size", type=int, default=64, metavar="PIXELS", help="side of the frames (default 64)")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        metavar="N|SHORTEST,LONGEST",
        help="length of a clip (avsbench: one number, default 5, in the hard world 10; music-avqa: 10 to 60, default "
        "10, two numbers draw it for each video; not for epic100, where --segments decides)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT's data set if there is one")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    _configure_avsbench(parser.add_argument_group("avsbench-ms3, avsbench-s4"))
    parser.add_argument_group(f"{MUSIC_AVQA}, {EPIC100}").add_argument(
        "--videos", type=_counts, metavar="N", help="as --clips; default 800,100,200, for epic100 30,10,5"
    )
    _configure_music(parser.add_argument_group(MUSIC_AVQA))
    _configure_kitchen(parser.add_argument_group(EPIC100))


def _configure_avsbench(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--clips",
        type=_counts,
        metavar="N",
        help="TRAIN,VAL,TEST, or one number for train (and 15 %% of it each for val and test); default 1000,100,300",
    )
    group.add_argument("--world", choices=("default", "bursts", "hard"), help="how hard it is to tell who sounds")
    group.add_argument(
        "--mp4",
        type=_videos,
        metavar="all|none|N",
        help="videos of all clips (default), of none, or of the first N of each split; they take as long as the rest",
    )
    group.add_argument(
        "--log-mel", action="store_true", default=None, help="also write audio_log_mel, as AVSBench publishes it"
    )


def _configure_music(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--questions-per-video", type=float, metavar="N", help="mean number of questions (default 8)")
    group.add_argument("--instruments", type=int, metavar="N", help="kinds of instrument, 7 to 22 (default 8)")
    group.add_argument(
        "--split-by",
        choices=("video", "question"),
        help="video (default): each split has its own videos; question: all splits ask about all videos, as officially",
    )


def _configure_kitchen(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--segments", type=int, metavar="N", help="mean number of segments of a video (default 20)")
    group.add_argument(
        "--fps",
        choices=("30", "50", "59.94", "mixed"),
        help="frames per second (default 30); mixed: 59.94 for video ids of two digits, 50 for three, as officially",
    )


def _counts(text: str) -> dict[str, int] | int:
    """`"1000,100,300"` to clips per split, `"1000"` to a number."""
    numbers = text.split(",")
    if len(numbers) not in (1, 3) or not all(number.strip().isdigit() for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: give N or TRAIN,VAL,TEST, for example 1000,100,300")
    if len(numbers) == 1:
        return int(text)
    return dict(zip(("train", "val", "test"), map(int, numbers), strict=True))


def _seconds(text: str) -> tuple[int, int]:
    """`"10"` or `"10,60"` to the shortest and the longest."""
    numbers = text.split(",")
    if len(numbers) > 2 or not all(number.strip().isdigit() for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: give whole seconds, or SHORTEST,LONGEST such as 10,60")
    return int(numbers[0]), int(numbers[-1])


def _videos(text: str) -> str | int:
    """`"all"`, `"none"` or a number."""
    if not (text in ("all", "none") or text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: give all, none or a number of clips per split")
    return text if text in ("all", "none") else int(text)


def run(args: argparse.Namespace) -> int:
    """Renders the set."""
    from crossmamba.errors import UsageError

    every = {name for names in _OPTIONS.values() for name in names}
    misplaced = sorted(n for n in every.difference(_OPTIONS[args.dataset]) if getattr(args, n) is not None)
    if misplaced:
        flags = ", ".join("--" + name.replace("_", "-") for name in misplaced)
        raise UsageError(f"{flags}: not an option of {args.dataset}; see `crossmamba data synth --help`.")
    runs = {MUSIC_AVQA: _run_music, EPIC100: _run_kitchen}
    return runs.get(args.dataset, _run_avsbench)(args)


def _run_avsbench(args: argparse.Namespace) -> int:
    from crossmamba.data.synth import synthesize
    from crossmamba.errors import UsageError

    if args.seconds is not None and args.seconds[0] != args.seconds[1]:
        raise UsageError(f"--seconds {args.seconds[0]},{args.seconds[1]}: clips of {args.dataset} have one length.")
    clips = {"train": 1000, "val": 100, "test": 300} if args.clips is None else args.clips
    world = args.world or "default"
    root = synthesize(
        args.dataset,
        args.out,
        clips=clips,
        size=args.size,
        seconds=None if args.seconds is None else args.seconds[0],
        seed=args.seed,
        world=world,
        mp4="all" if args.mp4 is None else args.mp4,
        log_mel=bool(args.log_mel),
        workers=args.workers,
        progress=not args.json,
        overwrite=args.overwrite,
    )
    made = {"root": str(root), "dataset": args.dataset, "clips": clips, "seed": args.seed, "world": world}
    if args.json:
        print(json.dumps(made))
    else:
        print(f"{root}: {args.dataset}, {world} world, seed {args.seed}")
        print(f"next: crossmamba data verify {args.dataset} {args.out}")
    return 0


def _run_music(args: argparse.Namespace) -> int:
    from crossmamba.data.synth.music import summarize_music_avqa, synthesize_music_avqa

    own = ("questions_per_video", "instruments", "split_by")
    given = {name: getattr(args, name) for name in own if getattr(args, name) is not None}
    root = synthesize_music_avqa(
        args.out,
        videos={"train": 800, "val": 100, "test": 200} if args.videos is None else args.videos,
        size=args.size,
        seconds=args.seconds or (10, 10),
        seed=args.seed,
        workers=args.workers,
        progress=not args.json,
        overwrite=args.overwrite,
        **given,
    )
    made = summarize_music_avqa(root)
    if args.json:
        print(json.dumps(made))
        return 0
    print(f"{root}: {args.dataset}, seed {args.seed}")
    for split in ("train", "val", "test"):
        print(f"  {split:5} {made['videos'][split]:6} videos {made['questions'][split]:7} questions")
    for name, ceiling in made["ceilings"].items():
        if ceiling["All"] is not None:
            print(
                f"  {name:14} at most {ceiling['All']:6.2f} % of all, {ceiling['AV']:6.2f} % of audio-visual questions"
            )
    print(f"next: crossmamba data verify {args.dataset} {args.out}")
    return 0


def _run_kitchen(args: argparse.Namespace) -> int:
    from crossmamba.data.synth.kitchen import summarize_epic100, synthesize_epic100

    given = {name: getattr(args, name) for name in _OPTIONS[EPIC100] if getattr(args, name) is not None}
    root = synthesize_epic100(
        args.out,
        size=args.size,
        seed=args.seed,
        workers=args.workers,
        progress=not args.json,
        overwrite=args.overwrite,
        **given,
    )
    made = summarize_epic100(root)
    if args.json:
        print(json.dumps(made))
        return 0
    print(f"{root}: {args.dataset}, seed {args.seed}")
    for split in ("train", "val", "test"):
        print(f"  {split:5} {made['videos'][split]:6} videos {made['segments'][split]:7} segments")
    anticipation = made["ceilings"].get("anticipation", {})
    for name, ranking in (("seen_past", "mt5r_lift"), ("prior", "mt5r")) if anticipation else ():
        best = ", ".join(f"{task} {anticipation[name][task][ranking]:.1f}" for task in ("verb", "noun", "action"))
        print(f"  anticipation by the {name.replace('_', ' ')}, mean top-5 recall in %: {best}")
    print(f"next: crossmamba data verify {args.dataset} {args.out}")
    return 0
