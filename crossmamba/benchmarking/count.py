"""Counts a model's parameters and multiply-adds, with every operator seen as it runs, the fused scan too.

Counters that hook modules (thop, ptflops) see nothing of a fused Mamba block: it uses its weights without calling its
sub-modules. Here a dispatch mode sees the operators themselves, on real tensors or on the meta device (no memory, no
arithmetic). One multiply-add is one product that is added to something. Per operator:

| operator | multiply-adds |
|---|---|
| matrix products (linear, matmul, einsum, bmm) (n, k) x (k, m) | n k m; a bias is not counted |
| convolution | output elements x (input channels / groups) x kernel; what padding computes is counted |
| fused attention, L queries, S keys, widths E and E_v | heads x L S (E + E_v); a causal mask saves nothing |
| LSTM, GRU | tokens x (input weights + recurrent weights), as the matrix products that they are |
| `crossmamba::scan`, B batch, K routes, M steps, D channels, N states | B K M D (3 N + 1); without the skip D, 3 N |
| `crossmamba::step` | B D (3 N + 1) |

The scan's 3 N: two for the state, exp(ΔA) h + (Δu) B, and one for the output C h; the + 1 is D u. That is the cost of
the recurrence, whichever back end runs it and also where B and C are constant. Products that are not added to
something (ΔA, Δu, gates), exponentials, norms, softmax, activations, and interpolation are not counted, here and
elsewhere. A Mamba block of width 512 at 60 steps: 0.1035 G.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import crossmamba.ops  # noqa: F401 - registers crossmamba::scan and crossmamba::step

SUSPECTS = ("mm", "conv", "attention", "rnn", "lstm", "gru", "transformer", "trilinear", "cdist", "fft")
"""An operator of torch's with one of these in its name and no formula here is reported, not passed over."""


@dataclass
class MultiplyAdds:
    """Multiply-adds of one forward pass.

    Attributes:
        by_kind: "matmul", "convolution", "attention", "recurrent" and "scan", those that occur.
        uncounted: operators that may multiply and have no formula, by name, with the number of calls.
    """

    by_kind: Counter[str] = field(default_factory=Counter)
    uncounted: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """All kinds together."""
        return sum(self.by_kind.values())


@dataclass(frozen=True)
class Parameters:
    """Numbers in a model's parameters.

    Attributes:
        total: all. trainable: those with requires_grad. receiving: those that the gradient of the outputs reaches (a
            path exists; the value may still be 0).
    """

    total: int
    trainable: int
    receiving: int


def count_multiply_adds(model: Callable[..., Any], *inputs: Any, **named: Any) -> MultiplyAdds:
    """Multiply-adds of `model(*inputs, **named)` in eval mode, for the batch as given.

    Gradients are on, though no backward runs: the equations are counted, and not what inference may put in their place
    (AVS-Mamba's mask head looks its MLP up in a table then; nn.MultiheadAttention becomes one operator). A number that
    the program reads from a meta tensor is 1, so that a check of word ids passes; where such a number decides what is
    computed, count on real tensors.
    """
    counter = _Counter()
    with _mode_of(model, training=False), torch.enable_grad(), counter:
        model(*inputs, **named)
    return counter.found


def count_parameters(model: nn.Module, *inputs: Any, **named: Any) -> Parameters:
    """Parameters of a model, and those that receive gradient from every floating-point output in training mode.

    Neither the parameters' `.grad` nor the buffers (batch norm's statistics) are changed.
    """
    parameters = list(model.parameters())
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with _mode_of(model, training=True), torch.enable_grad(), _Counter():  # for what it answers for meta tensors
        output = torch.func.functional_call(model, buffers, inputs, named)
        reached = [value for value in _tensors(output) if value.requires_grad]
        wanted = trainable if reached else []
        gradients = torch.autograd.grad([value.sum() for value in reached], wanted, allow_unused=True) if wanted else ()
    receiving = sum(p.numel() for p, gradient in zip(wanted, gradients, strict=True) if gradient is not None)
    return Parameters(sum(p.numel() for p in parameters), sum(p.numel() for p in trainable), receiving)


class _Counter(TorchDispatchMode):
    """Adds up what each operator costs while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.found = MultiplyAdds()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts the operator if it has a formula, else what it is made of."""
        kwargs = kwargs or {}
        name = str(func._overloadpacket)
        if name == "aten._local_scalar_dense" and args[0].is_meta:
            return 1
        if name not in FORMULAS and func._can_decompose():
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if name in FORMULAS:
            kind, formula = FORMULAS[name]
            self.found.by_kind[kind] += int(formula(args, out))
        elif _suspect(name):
            self.found.uncounted[name] += 1
        return out


def _suspect(name: str) -> bool:
    """Whether an operator without a formula may multiply: a foreign one, or one that sounds like it."""
    namespace, _, short = name.partition(".")
    if namespace in ("prim", "prims", "profiler") or "backward" in short or name == "crossmamba.route_order":
        return False
    return namespace != "aten" or any(part in short for part in SUSPECTS)


def _product(left: int, right: int) -> Callable[[Any, Any], int]:
    """(n, k) x (k, m) and batches of it, with the factors at these places of the arguments."""
    return lambda args, out: args[left].numel() * (args[right].shape[-1] if args[right].dim() > 1 else 1)


def _convolution(args: Any, out: Tensor) -> int:
    x, weight, transposed = args[0], args[1], args[6]
    return (x if transposed else out).numel() * math.prod(weight.shape[1:])


def _attention(args: Any, out: Any) -> int:
    query, key, value = args[:3]
    return query.numel() // query.shape[-1] * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _onednn_rnn(args: Any, out: Any) -> int:
    return math.prod(args[0].shape[:2]) * (args[1].numel() + args[2].numel())


def _cudnn_rnn(args: Any, out: Any) -> int:
    x, weights = args[0], args[1]
    return x.numel() // x.shape[-1] * sum(weight.numel() for weight in weights if weight.dim() > 1)


def _scan(args: Any, out: Any) -> int:
    u, A, skip = args[0], args[2], args[5]
    states = A.shape[2]
    return u.shape[0] * u.shape[1] * A.shape[0] * A.shape[1] * (3 * states + (skip is not None))


def _step(args: Any, out: Any) -> int:
    state, x, skip = args[0], args[1], args[6]
    return 3 * state.numel() + (0 if skip is None else x.numel())


FORMULAS: dict[str, tuple[str, Callable[[Any, Any], int]]] = {
    "aten.mm": ("matmul", _product(0, 1)),
    "aten.bmm": ("matmul", _product(0, 1)),
    "aten.mv": ("matmul", _product(0, 1)),
    "aten.dot": ("matmul", _product(0, 1)),
    "aten.addmm": ("matmul", _product(1, 2)),
    "aten._addmm_activation": ("matmul", _product(1, 2)),
    "aten.addmv": ("matmul", _product(1, 2)),
    "aten.baddbmm": ("matmul", _product(1, 2)),
    "aten.addbmm": ("matmul", _product(1, 2)),
    "aten.convolution": ("convolution", _convolution),
    "aten._scaled_dot_product_flash_attention": ("attention", _attention),
    "aten._scaled_dot_product_flash_attention_for_cpu": ("attention", _attention),
    "aten._scaled_dot_product_efficient_attention": ("attention", _attention),
    "aten._scaled_dot_product_cudnn_attention": ("attention", _attention),
    "aten._scaled_dot_product_fused_attention_overrideable": ("attention", _attention),
    "aten.mkldnn_rnn_layer": ("recurrent", _onednn_rnn),
    "aten._cudnn_rnn": ("recurrent", _cudnn_rnn),
    "crossmamba.scan": ("scan", _scan),
    "crossmamba.step": ("scan", _step),
}


@contextmanager
def _mode_of(model: Any, training: bool) -> Iterator[None]:
    """Training or eval mode for a while; every module gets its own back."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    before = [module.training for module in modules]
    if modules:
        model.train(training)
    try:
        yield
    finally:
        for module, was in zip(modules, before, strict=True):
            module.training = was


def _tensors(value: Any) -> Iterable[Tensor]:
    """The floating-point tensors in nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, part.name) for part in fields(value)]
    elif isinstance(value, Mapping):
        value = list(value.values())
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for part in value for tensor in _tensors(part)]
