"""The scan for ONNX: there the loop must be part of the model, so it becomes ONNX's Scan operator.

`torch.onnx.export(model, ..., dynamo=True)` needs nothing else: while it traces the model, `run_scan` and `route_table`
come here instead of to an operator of ours. The loop is torch's `scan`, which the exporter writes as one Scan node with
the body of one step, so the length stays free.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossmamba.ops.backends import ScanInputs, constant_to_dynamo
from crossmamba.ops.portable_layout import Layout, Operands


@constant_to_dynamo  # Dynamo itself takes is_in_onnx_export() for False
def exporting_to_onnx() -> bool:
    """Whether `torch.onnx.export` is tracing."""
    return torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()


def scan_for_onnx(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Output (B, M, D) and last state (B, K, D, N), as `run_scan`."""
    layout = Layout(inputs)
    w = Operands(*(value.detach() for value in layout.operands()))  # else the loop would be exported with its gradient
    y, h = _loop(w)
    out, _ = layout.finish(y)
    return out.to(inputs.u.dtype), layout.from_state(h)


def _loop(w: Operands) -> tuple[Tensor, Tensor]:
    """y (L, P, S, C) and the last state (P, S, N, C); what is constant along the sequence stays outside the loop."""
    from torch._higher_order_ops.scan import scan

    steps = {name: getattr(w, name) for name in ("x", "delta", "B", "C")}
    walked = {n: v for n, v in steps.items() if v.dim() == 4 and (n == "x" or v.shape[0] != 1)}

    def step(h: Tensor, now: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        at = {name: now.get(name, value[0] if value.dim() == 4 else value) for name, value in steps.items()}
        B, C = (at[name][:, :, :, None] if steps[name].dim() == 4 else at[name][:, None] for name in ("B", "C"))
        h = torch.exp(at["delta"][:, :, None] * w.A[:, None]) * h + (at["delta"] * at["x"])[:, :, None] * B
        return h, (h * C).sum(dim=2)

    h, y = scan(step, w.h0, walked)
    return y, h
