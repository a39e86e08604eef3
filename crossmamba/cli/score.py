"""`crossmamba score avs|avqa|epic100|identify`: judges predictions against the truth, without a model."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial

from crossmamba.cli import score_avqa, score_epic100

HELP = "judge predicted masks, answers or actions against ground truth, without a model"
AVS_EXAMPLE = "crossmamba score avs --pred runs/a/predictions --gt /data/AVSBench/Multi-sources/ms3_data/gt_masks/test"
EXAMPLE = f"{AVS_EXAMPLE}\n  {score_avqa.EXAMPLE}\n  {score_epic100.EXAMPLE}"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the tasks that can be scored."""
    tasks = parser.add_subparsers(dest="task", required=True, metavar="avs|avqa|epic100|identify")
    score_avqa.configure(tasks)
    score_epic100.configure(tasks)
    avs = tasks.add_parser(
        "avs",
        help="binary masks: M_J and M_F by both protocols",
        description="Scores PNG masks: M_J and M_F by the protocols `dataset` (no batches) and `official` (batches).\n"
        "Predictions are 8-bit grey, probability x 255. Files are paired by their path below the\n"
        "folders, or by the last two parts of it: gt_masks/test/violin/ID/ID_1.png and predictions/ID/ID_1.png.\n"
        "M_F varies the threshold: hard masks (0 and 255) give another M_F than the probabilities they came from.\n"
        "Exit code 3 and no scores if a file is missing, has no truth, is unreadable or of another size.",
        epilog=f"example:\n  {AVS_EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    avs.add_argument("--pred", required=True, metavar="DIR", help="folder of predicted masks")
    avs.add_argument("--gt", required=True, metavar="DIR", help="folder of ground truth, such as gt_masks/test")
    avs.add_argument(
        "--clips-per-batch",
        type=int,
        default=1,
        metavar="K",
        help="of the official protocol: AVS-Mamba 1 (default), AVSegFormer 2, TPAVI 4; M_F depends on it",
    )
    avs.add_argument("--json", action="store_true", help="print everything as JSON, scores as fractions")


def run(args: argparse.Namespace) -> int:
    """Scores, prints, and returns 3 if there was nothing to trust."""
    if args.task == "epic100":
        return score_epic100.run(args)
    if args.task != "avs":
        return score_avqa.run(args)
    from tqdm import tqdm

    from crossmamba.data.images import read_mask, read_probability
    from crossmamba.metrics.score import score_folders

    report = score_folders(
        args.pred,
        args.gt,
        read_prediction=read_probability,
        read_truth=read_mask,
        clips_per_batch=args.clips_per_batch,
        progress=partial(tqdm, desc="score", unit="frame", file=sys.stderr, disable=None, leave=False),
    )
    if args.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        print(report.text, file=sys.stdout if report.ok else sys.stderr)
    return 0 if report.ok else 3
