# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton's language has no starred tuples)
"""Where a program works, and its loads and stores.

Layout. A program owns a block of channels; its state is a tile (N, block) in registers, one channel in each lane and
all states of a channel in one thread. So the sum over states in y_t = C_t · h_t needs no exchange between lanes, and a
row of B or C is one broadcast load for the whole warp. The compiler takes layouts from the widths of loads; `place`
sets that width, which is the only hint it needs. Where registers are short a tile holds some states only: those in n.

`how` is a variant's `Choices`; S is the number of steps in flight; a token's offset may pass 2^31, so it is an int64. A
0 stands where there is nothing: Triton 3.6 takes no None in a tuple that a kernel makes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Sample(NamedTuple):
    """Which sequence a program walks: sample b by route k, of its own length; order is that of all routes, or None."""

    b: Any
    k: Any
    length: Any
    order: Any


class Place(NamedTuple):
    """A program's channels d and which of them exist, their group, and the numbers of its block and chunk."""

    d: Any
    in_d: Any
    group: Any
    block: Any
    chunk: Any


@triton.jit
def place(sizes, chunks, group_channels, how: tl.constexpr):
    """A program's place, and its number among those that share it. Blocks of channels do not cross groups."""
    program = tl.program_id(0)
    block = program % (sizes.blocks * sizes.groups)
    rest = program // (sizes.blocks * sizes.groups)
    group = block // sizes.blocks
    first = group * group_channels + (block % sizes.blocks) * how.block
    # A lane reads `width` neighbours at once, which divides the first channel of every block. With width = block / 32 a
    # warp's lanes cover the block, and the compiler's layout for tiles is the one that the head of this file asks for.
    width: tl.constexpr = how.width
    d = tl.multiple_of(first + tl.arange(0, how.block), width)
    in_d = d < (group + 1) * group_channels
    return Place(d, in_d, group, block % sizes.blocks, rest % chunks), rest // chunks


@triton.jit
def wide(x):
    """As int64. (A loop's counter is a plain number under the interpreter.)"""
    return x + tl.full([], 0, tl.int64)


@triton.jit
def mask_if(smaller, larger, mask):
    """mask if smaller < larger, else nothing. (Compared as a vector: the interpreter mistypes a boolean's splat.)"""
    return mask & (tl.full(mask.shape, smaller, tl.int32) < larger)


@triton.jit
def tile(pointer, index, n, at, channels, how: tl.constexpr):
    """Pointers to states n of tile number `index` in a contiguous (..., N, D) tensor, and which of them are valid."""
    pointers = pointer + (wide(index) * how.states + n)[:, None] * channels + at.d[None, :]
    return pointers, (n < how.states)[:, None] & at.in_d[None, :]


@triton.jit
def load_tile(pointer, index, n, at, channels, how: tl.constexpr):
    """States n of tile number `index`, in float32."""
    pointers, mask = tile(pointer, index, n, at, channels, how)
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_tile(pointer, index, value, n, at, channels, how: tl.constexpr):
    """Stores states n of tile number `index`."""
    pointers, mask = tile(pointer, index, n, at, channels, how)
    tl.store(pointers, value, mask=mask)


@triton.jit
def row(x, b, at):
    """Pointers to the channels of token 0 in a (B, M, D) tensor, or 0 if there is none."""
    if x is None:
        return 0
    else:
        return x.pointer + wide(b) * x.batch + wide(at.d) * x.channel


@triton.jit
def route_row(x, b, k, at):
    """Pointers to the channels of token 0 in a (B, K, M, D) tensor."""
    return x.pointer + wide(b) * x.batch + wide(k) * x.route + wide(at.d) * x.channel


@triton.jit
def channel_row(pointer, index, at, channels):
    """Row number `index` of a contiguous (..., D) tensor, or 0 if there is none."""
    if pointer is None:
        return 0.0
    else:
        return tl.load(pointer + wide(index) * channels + at.d, mask=at.in_d, other=0.0)


@triton.jit
def state_column(x, b, k, n, at):
    """Pointers to states n of token 0 in a (B, K, G, M, N) tensor, a column."""
    start = x.pointer + wide(b) * x.batch + wide(k) * x.route + wide(at.group) * x.group
    return start + wide(n)[:, None] * x.state


@triton.jit
def load_states(x, column, token, n, how: tl.constexpr):
    """A token's states n, (n, 1)."""
    return tl.load(column + token * x.token, mask=(n < how.states)[:, None], other=0.0).to(tl.float32)


@triton.jit
def load_constant(x, b, k, n, at, channels, how: tl.constexpr, NAME: tl.constexpr):
    """B or C (the NAME) where it does not vary along the sequence: something that broadcasts to a tile; else 0."""
    KIND: tl.constexpr = how.B if NAME == "B" else how.C
    if KIND == "token":
        return 0
    elif KIND == "channel":
        return load_tile(x.pointer, k, n, at, channels, how)
    else:
        return load_states(x, state_column(x, b, k, n, at), 0, n, how)


@triton.jit
def tokens_of(first, sample, sizes, how: tl.constexpr, S: tl.constexpr):
    """The tokens of S steps, as int64."""
    found = ()
    for i in tl.static_range(S):
        if sample.order is not None:
            found = found + (wide(tl.load(sample.order + wide(sample.k) * sizes.tokens + first + i)),)
        elif how.reverse:
            found = found + (wide(sample.length - 1 - first - i),)
        else:
            found = found + (wide(first + i),)
    return found


@triton.jit
def load_rows(pointers, stride, token, mask, S: tl.constexpr):
    """The rows of S tokens, in float32."""
    found = ()
    for i in tl.static_range(S):
        found = found + (tl.load(pointers + token[i] * stride, mask=mask, other=0.0).to(tl.float32),)
    return found


@triton.jit
def store_rows(pointers, stride, token, values, mask, S: tl.constexpr):
    """Stores the rows of S tokens."""
    for i in tl.static_range(S):
        tl.store(pointers + token[i] * stride, values[i].to(pointers.dtype.element_ty), mask=mask)


@triton.jit
def clear_rows(pointers, stride, start, stop, mask):
    """Zeros in the rows [start, stop): tokens past a sample's end."""
    for token in range(start, stop):
        zeros = tl.full(mask.shape, 0.0, pointers.dtype.element_ty)
        tl.store(pointers + wide(token) * stride, zeros, mask=mask)


@triton.jit
def length_of(lengths, b, sizes):
    """A sample's own number of steps."""
    if lengths is None:
        return sizes.tokens
    else:
        return tl.load(lengths + b).to(tl.int32)
