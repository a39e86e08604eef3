"""`crossmamba study`: trains and scores every row of a table, over seeds, and prints it."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

HELP = "train and score all rows of a study (an ablation table), and print the table"
EXAMPLE = """crossmamba study av-mamba-table2 --data.root data/concerts --out runs/table2 --seeds 0 1 2 --jobs 2
  crossmamba study avqa --data.root data/concerts --out runs/avqa
  crossmamba study action --data.root data/kitchen --out runs/action --jobs 2
  crossmamba study --list"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("name", nargs="?", help="av-mamba-table2, shmamba-ablations, avqa, action, ...; see --list")
    parser.add_argument("--list", action="store_true", help="list the studies with their rows, and end")
    parser.add_argument("--data.root", dest="root", metavar="DIR", help="the data set, with its features")
    parser.add_argument("--out", metavar="DIR", help="the study's folder; the same command goes on from what is there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="of the trainings (0 1 2)")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows")
    parser.add_argument(
        "--scale", default="small", help="small (the synthetic world) or full (the papers' sizes and features)"
    )
    parser.add_argument("--split", default="test", choices=("val", "test"), help="that is scored (test)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings side by side (1)")
    parser.add_argument("--threads", type=int, metavar="N", help="of each training (default: the cores shared out)")
    parser.add_argument(
        "--train", default="", metavar="'OPTIONS'", help="further options of every training: '--trainer.max_epochs 1'"
    )
    parser.add_argument(
        "--prepare",
        default="",
        metavar="'OPTIONS'",
        help="the same of the trainings that come before the rows (action)",
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        metavar="K",
        help="cross-fit the predicted questions of train rows (action): K further trainings, each asked only about "
        "videos that it did not see (default 0: the model that learned from the rows is asked)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the study and prints its table."""
    from crossmamba.errors import UsageError
    from crossmamba.studies import STUDIES, study_of

    if args.list:
        for study in STUDIES.values():
            print(f"{study.name}: {study.title}")
            for row in study.rows:
                print(f"  {row.name:34s} {row.model} {shlex.join(row.overrides)}".rstrip())
        return 0
    for name, value in (("the name of a study", args.name), ("--data.root DIR", args.root), ("--out DIR", args.out)):
        if value is None:
            raise UsageError(f"give {name} (`crossmamba study --list` shows the studies)")
    from crossmamba.studies.result import plain_text, write_result
    from crossmamba.studies.run import StudyOptions, run_study

    study = study_of(args.name)
    options = StudyOptions(
        root=Path(args.root),
        out=Path(args.out),
        seeds=tuple(args.seeds),
        scale=args.scale,
        split=args.split,
        train=tuple(shlex.split(args.train)),
        prepare=tuple(shlex.split(args.prepare)),
        folds=args.folds,
        rows=None if args.rows is None else tuple(args.rows),
        jobs=args.jobs,
        threads=args.threads,
    )
    jobs = run_study(study, options)
    text = write_result(study, options, jobs, sys.argv[1:])
    print((options.out / "study.json").read_text(encoding="utf-8") if args.json else plain_text(text))
    print(f"also in {options.out / 'study.md'} and {options.out / 'study.json'}", file=sys.stderr)
    return 0
