"""What MambaVL costs at full size, and its fusion against a Transformer on the same tokens.

    python benchmarks/action_cost.py                # results/action_cost.md; about an hour on a quiet 2-core machine
    python benchmarks/action_cost.py --width 64 --frames 2 4 --budget 0 --backbones clip_b --out /tmp/cost   # a trial

Counted (no memory, no arithmetic): parameters and multiply-adds of each registered backbone with SSM-Fusion and two
questions of 40 tokens. ORViT is not rebuilt here: its row is the fusion, projection and heads on its 1,569 stored
tokens, plus the 148 M parameters and 405 G multiply-adds that its paper states (spec §1.6).

Measured: the fusion alone on one clip, width 768, tokens of the video and of one question (40), forward and a training
step (forward, sum, backward); tokens as tubes of two frames give them, 1 + 196 T / 2: 16 frames are 1,569, 32 frames
(or 16 without tubes) 3,137, 256 frames 25,089. Each measurement is a process of its own; peak memory is by how much the
process' memory (on a GPU: the allocator's) rose above fusion and inputs, on the first step.

What was measured is kept in a json file beside the tables; a run that was stopped goes on there (--fresh forgets it).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cost_common import add_store_options, exponent, machine, measure, measure_cells, number, table_row, write

RESULTS = Path(__file__).resolve().parent / "results" / "action_cost"
BACKBONES = ("avion_b", "avion_l", "lavila_b", "clip_b", "videomae_b", "timesformer_b", "vivit_b", "vjepa2_l")
FUSIONS = ("shared_a", "separate_a", "concat", "cm_mamba", "transformer_6x4", "transformer_12x12")
ORVIT = "orvit_features"
ORVIT_PARAMETERS, ORVIT_MULTIPLY_ADDS = 148_000_000, 405_000_000_000
"""Of ORViT-Motionformer at 224 pixels, with its heads, as printed by its paper."""
RELEASED = f"{ORVIT}, as released"
MODES = ("forward", "training")
SMALL = {"frames": 2, "width": 64}
WORDS = 40


def tokens_of(frames: int) -> int:
    """Video tokens of T frames in tubes of two, 14 x 14 of them, and a class token."""
    return 1 + 196 * math.ceil(frames / 2)


def count(backbone: str, *, released: bool = False) -> dict[str, Any]:
    """Parameters and multiply-adds of MambaVL with a backbone, without RoBERTa's frozen table.

    Args:
        released: the mean over the tokens behind the fusion's last layer, as in the released code.
    """
    import torch

    from crossmamba import create_model
    from crossmamba.benchmarking.count import count_multiply_adds
    from crossmamba.models.examples import default_seconds, example_inputs

    with torch.device("meta"):
        model = create_model(f"mambavl_{backbone}", pool_first=not released)
    sample = example_inputs(model, seconds=default_seconds(model)[0])
    found = count_multiply_adds(model, *sample.inputs)
    if found.uncounted:
        sys.exit(f"{backbone}: no formula for {dict(found.uncounted)}")
    everything = sum(parameter.numel() for parameter in model.parameters())
    return {
        "parameters": everything - sum(parameter.numel() for parameter in model.text.parameters()),
        "text": sum(parameter.numel() for parameter in model.text.parameters()),
        "known": sum(
            p.numel() for part in (model.verb_head, model.noun_head, model.video_proj) for p in part.parameters()
        ),
        "multiply_adds": found.total,
        "scan": found.by_kind["scan"],
        "inputs": sample.shapes,
    }


def program(fusion: str, mode: str, frames: int, width: int, device: str) -> Callable[[], Any]:
    """A function that runs a fusion once, or one training step of it."""
    import torch

    from crossmamba.models.baselines.vl_fusion import build_vl_fusion

    torch.manual_seed(0)
    length = tokens_of(frames)
    layer = build_vl_fusion(fusion, ("video", "text"), width, positions=max(length, WORDS)).to(device)
    tokens = {
        "video": torch.randn(1, length, width, device=device),
        "text": torch.randn(1, WORDS, width, device=device),
    }
    if mode == "forward":
        layer.eval()

        def forward() -> Any:
            with torch.inference_mode():
                return layer(tokens)

        return forward
    for value in tokens.values():
        value.requires_grad_()

    def step() -> None:
        layer.zero_grad()
        layer(tokens).square().mean().backward()

    return step


def cells(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Everything that is measured, as arguments of `program`, the short ones first."""
    for frames in args.frames:
        for mode in MODES:
            for fusion in args.fusions:
                yield {"fusion": fusion, "mode": mode, "frames": frames, "width": args.width, "device": args.device}


def key(cell: dict[str, Any]) -> str:
    """A cell's name in the json file."""
    return "/".join(str(cell[name]) for name in ("fusion", "mode", "frames", "width", "device"))


def page(args: argparse.Namespace, counts: dict[str, Any], found: dict[str, Any]) -> str:
    """The tables, from what was counted and measured."""
    lines = [
        "# Cost of MambaVL",
        "",
        f"`python benchmarks/action_cost.py` on {args.machine}. Float32. Made by the script; its first lines say how.",
        "",
        "## Full size: a clip and two questions of 40 tokens, SSM-Fusion",
        "",
        "| backbone | parameters | RoBERTa's, frozen, not counted | G multiply-adds | of them scan | inputs |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name in [name for name in counts if name != RELEASED]:
        counted = counts[name]
        lines.append(_counted(name, counted, counted["parameters"], counted["multiply_adds"]))
    if ORVIT in counts:
        for title, own in (("", counts[ORVIT]), (", as released", counts[RELEASED])):
            parameters = ORVIT_PARAMETERS + own["parameters"] - own["known"]
            multiply_adds = ORVIT_MULTIPLY_ADDS + own["multiply_adds"]
            lines.append(_counted(f"ORViT's stated 148 M and 405 G, and that{title}", own, parameters, multiply_adds))
        lines += ["", "The paper prints 157 M and 413 G for the last row."]
    for what, unit in (("ms", "milliseconds"), ("mib", "peak MiB")):
        title = f"## The fusion alone: {unit} by frames, one clip, one question, width {args.width}"
        lines += ["", title, "", *_growth(args, found, what)]
    lines += [
        "",
        "The last column is the exponent p of cost ~ L^p between the last two lengths: 1 is linear in the tokens L, 2 "
        "quadratic.",
    ]
    return "\n".join(lines) + "\n"


def _counted(name: str, counted: dict[str, Any], parameters: int, multiply_adds: int) -> str:
    total, scan = f"{multiply_adds / 1e9:,.2f}", f"{counted['scan'] / 1e9:.3f}"
    return f"| {name} | {parameters:,} | {counted['text']:,} | {total} | {scan} | {counted['inputs']} |"


def _growth(args: argparse.Namespace, found: dict[str, Any], what: str) -> list[str]:
    heads = [f"{frames} ({tokens_of(frames):,})" for frames in args.frames]
    lines = ["| fusion | step | " + " | ".join(heads) + " | exponent |", "|---|---|" + "--:|" * (len(heads) + 1)]
    for mode in MODES:
        for fusion in args.fusions:
            cell = {"fusion": fusion, "mode": mode, "width": args.width, "device": args.device}
            numbers = [number(found[key({**cell, "frames": frames})], what) for frames in args.frames]
            slope = exponent(numbers, [tokens_of(frames) for frames in args.frames])
            lines.append(table_row(fusion, mode, numbers=numbers, last=slope))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 32, 64, 128, 256], help="T of the growth tables")
    parser.add_argument("--fusions", nargs="+", default=list(FUSIONS), choices=FUSIONS)
    parser.add_argument("--backbones", nargs="*", default=[*BACKBONES, ORVIT], choices=[*BACKBONES, ORVIT])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of timing per measurement, at least 3 steps")
    parser.add_argument("--memory", type=float, default=16.0, help="GiB that one measurement may take")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds that one measurement may take")
    parser.add_argument("--device", default="cpu")
    add_store_options(parser, RESULTS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(program, args.child, SMALL, args.budget, args.memory)))
        return
    args.machine = machine(args.device)
    found = measure_cells(__file__, cells(args), key, args, args.machine)
    counts = {name: count(name) for name in args.backbones}
    if ORVIT in counts:
        counts[RELEASED] = count(ORVIT, released=True)
    text = page(args, counts, found)
    write(args.out.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
