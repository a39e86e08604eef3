"""The portable scan against plain loops, transformers' slow path and torch's associative_scan, on this machine.

    python benchmarks/scan.py            # about 3 minutes on two cores

Peers and ours are timed in turn, pair by pair; the table shows the median of each and the median of the ratios.
Shapes are those of the papers, cut in D where a peer's backward would take minutes (see the D column).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch._higher_order_ops.associative_scan import associative_scan

from crossmamba.ops import selective_scan_fn, selective_scan_ref

SHAPES = {  # name: (B, D, L, N)
    "language, L 2048": (1, 1536, 2048, 16),
    "AV-Mamba tier 2": (10, 512, 196, 16),
    "AVS-Mamba temporal, N 16": (8, 256, 1029, 16),
    "small model, stride 4": (16, 48, 1285, 4),
}


def unbind_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The best loop under autograd: nothing (B, D, L, N) in memory, unbind in place of indexing."""
    h, y = 0.0, []
    for x_t, d_t, B_t, C_t in zip(u.unbind(-1), delta.unbind(-1), B.unbind(-1), C.unbind(-1), strict=True):
        h = torch.exp(d_t[..., None] * A) * h + (d_t * x_t)[..., None] * B_t[:, None]
        y.append((h * C_t[:, None]).sum(-1))
    return torch.stack(y, -1)


def transformers_slow_path(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The arithmetic of transformers' MambaMixer.slow_forward: everything discretised first, then an indexed loop."""
    decay = torch.exp(A[None, :, None] * delta[..., None])
    drive = delta[..., None] * B.transpose(1, 2)[:, None] * u[..., None]
    h, y = u.new_zeros(u.shape[0], u.shape[1], A.shape[1]), []
    for t in range(u.shape[-1]):
        h = decay[:, :, t] * h + drive[:, :, t]
        y.append(torch.matmul(h, C[:, :, t, None])[..., 0])
    return torch.stack(y, -1)


def torch_associative_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """torch's own parallel scan, eager: (a, b) then (a', b') is (a a', a' b + b'). The strongest peer in training."""
    decay = torch.exp(A[None, :, None] * delta[..., None])  # (B, D, L, N)
    drive = (delta * u)[..., None] * B.transpose(1, 2)[:, None]

    def combine(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return first[0] * second[0], second[0] * first[1] + second[1]

    _, h = associative_scan(combine, (decay, drive), dim=2, combine_mode="generic")
    return torch.einsum("bdln,bnl->bdl", h, C)


PEERS: dict[str, Callable[..., Tensor]] = {
    "reference loop": selective_scan_ref,
    "unbind loop": unbind_loop,
    "transformers' slow path": transformers_slow_path,
    "torch's associative_scan, eager": torch_associative_scan,
}


def timed(function: Callable[..., Tensor], inputs: list[Tensor], backward: bool) -> float:
    start = time.perf_counter()
    if backward:
        torch.autograd.grad(function(*inputs).sum(), inputs)
    else:
        with torch.no_grad():
            function(*inputs)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--max-seconds", type=float, default=20.0, help="a peer slower than this runs one pair only")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32")
    print("| shape (B, D, L, N) | pass | peer | peer ms | portable ms | ratio |\n|---|---|---|---|---|---|")
    for name, (batch, channels, length, states) in SHAPES.items():
        for backward in (False, True):
            # Loops that index under autograd need O(L^2) in backward: fewer channels, for every side alike.
            width = max(16, channels // 16) if backward else channels
            torch.manual_seed(0)
            inputs = [
                torch.randn(batch, width, length),
                torch.rand(batch, width, length) * 0.1,
                -torch.rand(width, states),
            ]
            inputs += [torch.randn(batch, states, length), torch.randn(batch, states, length)]
            inputs = [value.requires_grad_() for value in inputs]
            for peer, function in PEERS.items():
                theirs, ours = [], []
                selective_scan_fn(*inputs)
                for _ in range(args.pairs):
                    theirs.append(timed(function, inputs, backward))
                    ours.append(timed(lambda *a: selective_scan_fn(*a, backend="portable"), inputs, backward))
                    if theirs[-1] > args.max_seconds:
                        break
                ratio = statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
                what = "forward + backward" if backward else "forward"
                shape = (batch, width, length, states)
                times = f"{1e3 * statistics.median(theirs):.0f} | {1e3 * statistics.median(ours):.0f}"
                print(f"| {name} {shape} | {what} | {peer} | {times} | {ratio:.1f}x |", flush=True)


if __name__ == "__main__":
    main()
