"""From the canonical form of a scan to the portable loop's layout and back.

B batch   M tokens   D channels   N states   K routes   G groups   P = K * G parameter sets
canonical: batch first, then routes and groups (`ScanInputs`)
loop: steps first, then parameter sets, then the batch (`portable`)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmamba.ops.backends import ScanInputs


class Operands(NamedTuple):
    """The loop's operands, or their gradients; shapes at the head of `portable`."""

    x: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    h0: Tensor


class Layout:
    """The conversions for one call."""

    def __init__(self, inputs: ScanInputs) -> None:
        self.inputs, self.dtype = inputs, inputs.A.dtype
        self.batch, self.length, self.channels = inputs.u.shape
        self.routes, _, self.states = inputs.A.shape
        self.groups = max([1, *(m.shape[2] for m in (inputs.B, inputs.C) if m.dim() == 5)])
        self.outside: Tensor | None = None  # bool (B, M): steps past a sample's length
        if inputs.lengths is not None:
            self.outside = torch.arange(self.length, device=inputs.u.device) >= inputs.lengths[:, None]
        if inputs.order is not None:
            # Rows of a (K * M, ...) tensor of tokens at each of M * K steps, steps in front; and the way back.
            steps = torch.arange(self.length * self.routes, device=inputs.u.device)
            self.tokens_by_step = inputs.order.t().long().flatten()
            self.rows_by_step = self.tokens_by_step + steps % self.routes * self.length
            self.rows_by_token = torch.empty_like(steps).index_copy_(0, self.rows_by_step, steps)

    def operands(self) -> Operands:
        """What the loop walks over."""
        u, _, A, B, C, *_ = self.inputs
        h0 = self.inputs.initial_state
        if h0 is None:
            h0 = u.new_zeros(self.batch, self.routes, self.channels, self.states, dtype=self.dtype)
        step = self._masked_steps(self._positive(self._raw_delta()))  # Δ = 0 leaves the state alone
        return Operands(
            self.spread(self.tokens(u)),
            self._split(self._walk(step)),
            self.split_constant(A),
            self._projection(B),
            self._projection(C),
            self.to_state(h0),
        )

    def masked(self, value: Tensor) -> Tensor:
        """(B, M, D), with 0 past each sample's length."""
        return value if self.outside is None else value.masked_fill(self.outside[..., None], 0.0)

    def tokens(self, value: Tensor) -> Tensor:
        """u, z or the output's gradient (B, M, D) in the state's dtype, 0 past each sample's length."""
        return self.masked(value.to(self.dtype))

    def spread(self, value: Tensor) -> Tensor:
        """(B, M, D) in token order -> (M, P, B, D / G): the tokens that each route visits."""
        value = value.transpose(0, 1)
        if self.inputs.order is not None:
            return self._split(value.index_select(0, self.tokens_by_step).unflatten(0, (self.length, self.routes)))
        value = value.flip(0) if self.inputs.reverse else value
        return self._split(value[:, None].expand(-1, self.routes, -1, -1))

    def merge(self, value: Tensor) -> Tensor:
        """(M, P, B, D / G) -> (B, M, D): each route's values back at their tokens, summed over the routes."""
        value = self._unwalk(self._join(value))
        return (value.sum(dim=1) if self.routes > 1 else value[:, 0]).transpose(0, 1)

    def finish(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loop's y (M, P, B, D / G) -> the output (B, M, D), and what it is before the gate, in the state's dtype.

        Both lie in memory as u does, and are brought there first, so that u and z are met in their own order.
        """
        u, _, _, _, _, D, z, *_ = self.inputs
        plain = torch.empty_like(u, dtype=self.dtype).copy_(self.merge(y))
        if D is not None:
            plain = plain.addcmul_(D.sum(dim=0), self.tokens(u))
        return self.masked(plain if z is None else plain * F.silu(self.tokens(z))), plain

    def delta_gradient(self, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradient of Δ (M or 1, P, B, D / G) -> those of `delta` and of `delta_bias`."""
        delta, bias = self.inputs.delta, self.inputs.delta_bias
        gradient = self._masked_steps(self._unwalk(self._join(gradient)))  # (M or 1, K, B, D)
        if self.inputs.softplus:
            gradient = torch.ops.aten.softplus_backward(gradient, self._biased(self._raw_delta()), 1, 20)
        d_bias = None if bias is None else gradient.sum(dim=(0, 2))
        gradient = self._like_length(gradient, delta.shape[2])
        return laid_out_like(gradient.permute(2, 1, 0, 3), delta), d_bias

    def projection_gradient(self, projection: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of B or C from the loop's layout to the canonical one."""
        if projection.dim() == 3:
            return self.join_constant(gradient)
        gradient = self._unwalk(gradient.unflatten(1, (self.routes, self.groups)))  # (M or 1, K, G, B, N)
        gradient = self._like_length(gradient, projection.shape[3]).permute(3, 1, 2, 0, 4)
        return gradient.to(projection.dtype).contiguous()

    def split_constant(self, matrix: Tensor) -> Tensor:
        """A, or a constant B or C: (K, D, N) -> (P, N, D / G)."""
        width = self.channels // self.groups
        matrix = matrix.reshape(self.routes * self.groups, width, self.states)
        return matrix.transpose(1, 2).contiguous()

    def join_constant(self, matrix: Tensor) -> Tensor:
        """The inverse of `split_constant`."""
        return matrix.transpose(1, 2).reshape(self.routes, self.channels, self.states).contiguous()

    def to_state(self, state: Tensor) -> Tensor:
        """(B, K, D, N) -> (P, B, N, D / G)."""
        state = state.unflatten(2, (self.groups, self.channels // self.groups))  # (B, K, G, D / G, N)
        return state.permute(1, 2, 0, 4, 3).flatten(0, 1).contiguous()

    def from_state(self, state: Tensor) -> Tensor:
        """The inverse of `to_state`, as a tensor of its own."""
        state = state.unflatten(0, (self.routes, self.groups)).permute(2, 0, 1, 4, 3)
        return state.clone(memory_format=torch.contiguous_format).flatten(2, 3)

    def _raw_delta(self) -> Tensor:
        """`delta` as (M or 1, K, B, D) in token order and the state's dtype; of length M if samples have lengths."""
        return self._masked_steps(self.inputs.delta.to(self.dtype).permute(2, 1, 0, 3))

    def _biased(self, delta: Tensor) -> Tensor:
        bias = self.inputs.delta_bias
        return delta if bias is None else delta + bias[:, None]

    def _positive(self, delta: Tensor) -> Tensor:
        delta = self._biased(delta)
        return F.softplus(delta) if self.inputs.softplus else delta

    def _projection(self, value: Tensor) -> Tensor:
        """B or C -> (M or 1, P, B, N), or (P, N, D / G) if constant."""
        if value.dim() == 3:
            return self.split_constant(value)
        value = self._masked_steps(value.to(self.dtype).permute(3, 1, 2, 0, 4))  # (M or 1, K, G, B, N)
        return self._walk(value).flatten(1, 2).contiguous()

    def _masked_steps(self, value: Tensor) -> Tensor:
        """(M or 1, K, ..., B, .) with 0 past each sample's length, where samples have lengths."""
        if self.outside is None:
            return value
        outside = self.outside.t()[..., None]  # (M, B, 1)
        return value.expand(self.length, *value.shape[1:]).masked_fill(
            outside.view(self.length, *[1] * (value.dim() - 3), self.batch, 1), 0.0
        )

    def _like_length(self, gradient: Tensor, length: int) -> Tensor:
        """(M or 1, ...) -> (length, ...): summed over the steps if the input was constant along the sequence."""
        return gradient if gradient.shape[0] == length else gradient.sum(dim=0, keepdim=True)

    def _walk(self, value: Tensor) -> Tensor:
        """(M or 1, K, ...) in token order -> in each route's order of steps."""
        if value.shape[0] != self.length:
            return value
        if self.inputs.order is not None:
            rows = value.transpose(0, 1).flatten(0, 1)  # a view for one sample: its memory is (B, K, M, .)
            return rows.index_select(0, self.rows_by_step).unflatten(0, (self.length, self.routes))
        return value.flip(0) if self.inputs.reverse else value

    def _unwalk(self, value: Tensor) -> Tensor:
        """The inverse of `_walk`."""
        if value.shape[0] != self.length:
            return value
        if self.inputs.order is not None:
            rows = value.flatten(0, 1).index_select(0, self.rows_by_token)
            return rows.unflatten(0, (self.routes, self.length)).transpose(0, 1)
        return value.flip(0) if self.inputs.reverse else value

    def _split(self, value: Tensor) -> Tensor:
        """(., K, B, D) -> (., P, B, D / G), contiguous."""
        if self.groups == 1:
            return value.contiguous()
        value = value.unflatten(3, (self.groups, self.channels // self.groups))
        return value.permute(0, 1, 3, 2, 4).flatten(1, 2).contiguous()

    def _join(self, value: Tensor) -> Tensor:
        """The inverse of `_split`."""
        if self.groups == 1:
            return value
        value = value.unflatten(1, (self.routes, self.groups))  # (., K, G, B, D / G)
        return value.permute(0, 1, 3, 2, 4).flatten(3, 4)


def laid_out_like(value: Tensor, given: Tensor) -> Tensor:
    """A fresh value in the dtype and memory layout that `torch.empty_like(given)` has; not copied if it is so."""
    target = torch.empty_like(given)
    strides = zip(value.stride(), target.stride(), value.shape, strict=True)
    if value.dtype == target.dtype and all(a == b or size == 1 for a, b, size in strides):
        return value.as_strided(target.shape, target.stride())
    return target.copy_(value)
