"""Time and peak memory of full-size AVS-Mamba on this machine: one forward and backward pass of one 5 s clip.

    python benchmarks/full_size.py                      # PVT-v2-b5 and ResNet-50 at 224, about 4 minutes
    python benchmarks/full_size.py --model avs_mamba_pvt_v2_b5 --size 512 --checkpointing

Each case runs in a process of its own, so that the peak is its own. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time


def measure(model_name: str, size: int, seconds: int, checkpointing: bool) -> dict[str, float]:
    """One evaluation forward, then one training forward and backward; seconds and peak MiB of the process."""
    import torch

    from crossmamba import create_model

    torch.manual_seed(0)
    model = create_model(model_name)
    model.set_gradient_checkpointing(checkpointing)
    parameters = sum(p.numel() for p in model.parameters())
    frames, log_mel = torch.randn(1, seconds, 3, size, size), torch.randn(1, seconds, 1, 96, 64)
    start_memory = _peak_mib()

    model.eval()
    with torch.no_grad():
        model(frames, log_mel)  # builds the head's table and warms the allocator
        start = time.perf_counter()
        model(frames, log_mel)
        inference = time.perf_counter() - start
    inference_memory = _peak_mib()

    model.train()
    start = time.perf_counter()
    out = model(frames, log_mel)
    forward = time.perf_counter() - start
    (out.logits.square().mean() + sum(i.square().mean() for i in out.intermediate)).backward()
    total = time.perf_counter() - start
    return {
        "parameters": parameters,
        "inference_s": inference,
        "train_forward_s": forward,
        "forward_backward_s": total,
        "weights_mib": start_memory,
        "inference_peak_mib": inference_memory,
        "training_peak_mib": _peak_mib(),
        "threads": torch.get_num_threads(),
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["avs_mamba_pvt_v2_b5", "avs_mamba_resnet50"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.model[0], args.size, args.seconds, args.checkpointing)))
        return
    print(
        "| model | side | T | parameters | inference s | forward + backward s "
        "| peak MiB inference | peak MiB training |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in args.model:
        command = [sys.executable, __file__, "--child", "--model", name, "--size", str(args.size)]
        command += ["--seconds", str(args.seconds), *(["--checkpointing"] if args.checkpointing else [])]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(
            f"| {name} | {args.size} | {args.seconds} | {row['parameters']:,} | {row['inference_s']:.1f} | "
            f"{row['forward_backward_s']:.1f} | {row['inference_peak_mib']:.0f} | {row['training_peak_mib']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
