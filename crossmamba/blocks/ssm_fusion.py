"""SSM-Fusion: one Mamba branch a modality, one state matrix A for all of them, mean over time, sum (MambaVL, alg. 1).

Symbols (paper -> here):
    X_m      tokens of modality m (B, L_m, d_m), any number of modalities by name, each of its own length
    D, N, R  inner channels (expand * d), states, rank of Δ
    A        = -exp(A_log) (D, N), one tensor for all modalities, or one each (`share_a=False`)
    p_m      mean over time of modality m's branch (B, d)          fused = sum over m of p_m (B, d)

**No information passes between modalities.** Sharing A joins the branches through its gradient, in training, and
through nothing else: a branch's output does not depend on any other branch's input. So fused is a sum of one function
of each modality, and logits that are linear in it are exactly additive,

    logits(video, text) = g(video) + h(text) + b

(spec §1.3; tests/blocks/test_ssm_fusion.py). A model that is to look at the video *because of* the question needs
another fusion: `crossmamba.models.baselines.vl_fusion` has some that take the same tokens.

What the paper leaves open and the released code says (spec §1.3 to 1.5): one Mamba layer a modality, no residual, no
norm, forward in time only. Two things of that code are options here and not the default:
    `pad_mode="official"`   padding runs through the scan and counts in the mean; "masked" leaves it out, exactly
    `init="official"`       its constructors overwrite what they have just initialised, see `official_init_`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.blocks.layers import DropPath
from crossmamba.blocks.mamba import Mamba
from crossmamba.blocks.ssm import initial_A_log, keep_from_decay
from crossmamba.errors import UsageError
from crossmamba.ops import selective_scan_fn, selective_state_update

INITS = ("paper", "official")
PAD_MODES = ("masked", "official")


@dataclass
class BranchMemory:
    """All that a branch keeps of the past; its size does not depend on how long that was.

    Attributes:
        window: (B, d_conv - 1, D), the last inputs of the convolution. state: (B, D, N), the scan's state.
    """

    window: Tensor
    state: Tensor


class SSMBranch(Mamba):
    """A Mamba block whose A may be given from outside, and which can go on from where it stopped.

    Args:
        d_model: width of the tokens. own_A: hold an A_log; False: every call gets one. options: of `Mamba`.

    Parameter count without A at d_model 768 and 1024 with Mamba's defaults: 3,746,304 and 6,633,472.
    """

    def __init__(self, d_model: int, *, own_A: bool = True, **options: Any) -> None:
        super().__init__(d_model, **options)
        if not own_A:
            del self.A_log

    def forward(self, hidden_states: Tensor, *, lengths: Tensor | None = None, A_log: Tensor | None = None) -> Tensor:
        """As `Mamba.forward`, with A_log (D, N) in place of its own if given."""
        return self.out_proj(self.inner(hidden_states, lengths=lengths, A_log=A_log))

    def inner(self, tokens: Tensor, *, lengths: Tensor | None = None, A_log: Tensor | None = None) -> Tensor:
        """`forward` before the last linear layer: (B, L, d_model) -> (B, L, D), 0 past a sample's length."""
        if lengths is not None:  # NaN in the padding must not spread
            steps = torch.arange(tokens.shape[1], device=tokens.device)
            tokens = tokens.masked_fill((steps >= lengths[:, None])[..., None], 0.0)
        x, z = self.in_proj(tokens).chunk(2, dim=-1)  # (B, L, D) each
        y = self._scan(F.silu(self.conv1d(x)), z, A_log, lengths=lengths)
        assert isinstance(y, Tensor)
        return y.transpose(1, 2)

    def start(self, batch: int) -> BranchMemory:
        """The memory of B sequences before their first token."""
        like = self.in_proj.weight
        state = torch.promote_types(like.dtype, torch.float32)
        return BranchMemory(
            like.new_zeros(batch, self.d_conv - 1, self.d_inner),
            like.new_zeros(batch, self.d_inner, self.d_state, dtype=state),
        )

    @torch.no_grad()
    def extend(
        self,
        tokens: Tensor,
        memory: BranchMemory,
        *,
        lengths: Tensor | None = None,
        A_log: Tensor | None = None,
        by: str = "step",
    ) -> tuple[Tensor, BranchMemory]:
        """The next P tokens of a stream; the results together are `inner` of the whole sequence.

        Args:
            tokens: (B, P, d_model). memory: after the tokens before them.
            lengths: int (B,), how many of the P are real (the first ones); None: all.
            by: "step", the operator's step update token by token, or "scan", one scan over the P tokens.

        Returns:
            (B, P, D) as `inner`, and the memory after them. Neither carries gradient.

        Raises:
            UsageError: another `by`, or "step" with lengths.
        """
        if by not in ("step", "scan") or (by == "step" and lengths is not None):
            raise UsageError(f'by is "step" or "scan", and "scan" with lengths, not {by!r}')
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        if not tokens.shape[1]:  # torch's convolution refuses an input shorter than its kernel
            return x, memory
        seen = torch.cat([memory.window, x], dim=1)  # (B, d_conv - 1 + P, D)
        conv = self.conv1d
        x = F.silu(F.conv1d(seen.transpose(1, 2), conv.weight, conv.bias, groups=conv.groups).transpose(1, 2))
        last = torch.arange(self.d_conv - 1, device=tokens.device)
        if lengths is None:
            window = seen[:, tokens.shape[1] :]
        else:
            window = seen.gather(1, (lengths[:, None] + last)[..., None].expand(-1, -1, self.d_inner))
        if by == "step":
            y, state = self._steps(x, z, memory.state.clone(), A_log)
        else:
            y, state = self._scan(x, z, A_log, lengths=lengths, initial_state=memory.state, return_last_state=True)
            y = y.transpose(1, 2)
        return y, BranchMemory(window, state)

    def _scan(self, x: Tensor, z: Tensor, A_log: Tensor | None, **options: Any) -> Tensor | tuple[Tensor, Tensor]:
        """The scan of x (B, L, D), gated by z -> (B, D, L), and the last state if `options` ask for it."""
        dt, B, C, A = self._selection(x, A_log)
        return selective_scan_fn(
            x.transpose(1, 2),
            dt.transpose(1, 2),
            A,
            B.transpose(1, 2),
            C.transpose(1, 2),
            _wide(self.D),
            z=z.transpose(1, 2),
            delta_bias=_wide(self.dt_proj.bias),
            delta_softplus=True,
            backend=self.backend,
            **options,
        )

    def _steps(self, x: Tensor, z: Tensor, state: Tensor, A_log: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same token by token, from `state`, which is changed in place -> (B, P, D), state."""
        dt, B, C, A = self._selection(x, A_log)
        bias, skip = _wide(self.dt_proj.bias), _wide(self.D)
        step = [
            selective_state_update(
                state, x[:, t], dt[:, t], A, B[:, t], C[:, t], skip, z[:, t], bias, True, backend=self.backend
            )
            for t in range(x.shape[1])
        ]
        return torch.stack(step, dim=1), state

    def _selection(self, x: Tensor, A_log: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (B, L, D) -> Δ before bias and softplus (B, L, D), B and C (B, L, N), A (D, N)."""
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return F.linear(dt, self.dt_proj.weight), B, C, -torch.exp(_wide(self.A_log if A_log is None else A_log))


class SSMFusion(nn.Module):
    """Tokens of any modalities by name -> their fused vector. See the top of the file for what it does not do.

    Args:
        widths: width of each modality's tokens by name; where it is not `width`, a linear layer (no bias) comes first.
        width: d. d_state: N. d_conv: kernel of the convolution. expand: D / d.
        share_a: one A for all modalities (the paper), or one each: 24,576 more parameters for a second at d 768.
        init: "paper" (Mamba's own) or "official". pad_mode: "masked" or "official". See the top of the file.
        pool_first: take the mean before the last linear layer and not after it: the same numbers, and 1.85 G of 5.86 G
            multiply-adds less for 1,569 tokens at d 768. False counts as the paper does.
        drop_path: leave a modality's whole term out with that probability, for whole samples, in training only.
        options: further ones of `Mamba`: dt_rank, dt_min, dt_max, ... backend.

    Parameter count with two modalities of width d and shared A: 7,517,184 at d 768, 13,299,712 at d 1024.

    Raises:
        UsageError: no modality, a name that cannot be one, or an unknown init or pad_mode.
    """

    additive = True
    """The result is a sum of one term for each modality (`terms`)."""

    def __init__(
        self,
        widths: Mapping[str, int],
        width: int = 768,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        share_a: bool = True,
        init: str = "paper",
        pad_mode: str = "masked",
        pool_first: bool = True,
        drop_path: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        if not widths:
            raise UsageError("SSMFusion needs at least one modality: widths is empty")
        check_names(widths)
        check_choice("init", init, INITS)
        check_choice("pad_mode", pad_mode, PAD_MODES)
        self.width, self.pad_mode, self.pool_first = width, pad_mode, pool_first
        sizes = {"d_state": d_state, "d_conv": d_conv, "expand": expand, **options}
        if share_a:
            self.A_log = keep_from_decay(nn.Parameter(initial_A_log(int(expand * width), d_state)))
        else:
            self.A_log = None
        self.proj = nn.ModuleDict({m: nn.Linear(own, width, bias=False) for m, own in widths.items() if own != width})
        self.branches = nn.ModuleDict({m: SSMBranch(width, own_A=not share_a, **sizes) for m in widths})
        self.drop_path = DropPath(drop_path)
        if init == "official":
            official_init_(self)

    def forward(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor | None] | None = None) -> Tensor:
        """The sum of the terms of the modalities that are given.

        Args:
            tokens: (B, L_m, d_m) by name, in any order; a modality that is left out drops its term.
            masks: bool (B, L_m) by name, True at real tokens, wherever they stand; none: all are real. A sample
                without real tokens in a modality has a term of 0 there.

        Returns:
            (B, d).

        Raises:
            UsageError: no tokens, an unknown name, or shapes that do not fit each other.
        """
        return sum_terms(self.terms(tokens, masks))

    def terms(
        self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor | None] | None = None
    ) -> dict[str, Tensor]:
        """p_m (B, d) of each modality that is given; arguments as `forward`."""
        masks = check_tokens(tokens, masks, {m: self.token_width(m) for m in self.branches})
        found = {}
        for name in self.branches:  # in our own order, so that the order of the arguments moves no rounding
            if name in tokens:
                mask = masks.get(name) if self.pad_mode == "masked" else None
                found[name] = self.drop_path(self._term(name, tokens[name], mask))
        return found

    def token_width(self, name: str) -> int:
        """d_m of a modality."""
        return self.proj[name].in_features if name in self.proj else self.width

    def project(self, name: str, tokens: Tensor) -> Tensor:
        """(B, L, d_m) -> (B, L, d)."""
        return self.proj[name](tokens) if name in self.proj else tokens

    def _term(self, name: str, tokens: Tensor, mask: Tensor | None) -> Tensor:
        tokens, lengths = pack_tokens(tokens, mask)
        branch = self.branches[name]
        call = branch.inner if self.pool_first else branch
        y = call(self.project(name, tokens), lengths=lengths, A_log=self.A_log)
        pooled = mean_of_packed(y, lengths)
        return branch.out_proj(pooled) if self.pool_first else pooled


def official_init_(module: nn.Module) -> nn.Module:
    """Overwrites a module's parameters as the released constructors do (spec §1.5), for replication studies.

    Xavier-uniform on everything with more than one axis, then linear layers from a normal of 0.02 cut at +-2 with zero
    biases, then LayerNorms to 1 and 0. So A_log is near 0 and A in [-1.07, -0.94] in place of [-16, -1], and Δ starts
    at 0.69 in place of 0.001 to 0.1: a branch remembers one or two tokens. Pretrained embeddings inside `module` are
    lost too, as they are there.
    """
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm) and part.elementwise_affine:
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    return module


def pack_tokens(tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Real tokens to the front, in their order: (B, L, d), bool (B, L) -> (B, L, d), int64 (B,) how many are real.

    What is behind them is the padding, unchanged. Without mask the tokens as they are, and None.
    """
    if mask is None:
        return tokens, None
    return tokens.gather(1, packing_order(mask)[..., None].expand_as(tokens)), mask.sum(1)


def packing_order(mask: Tensor) -> Tensor:
    """bool (B, L) -> int64 (B, L), the places of the real tokens and then those of the others, each in their order."""
    return torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)


def mean_of_packed(y: Tensor, lengths: Tensor | None) -> Tensor:
    """Mean over time of (B, L, .) that is 0 past the lengths (B,); 0 where there is no token."""
    count = max(1, y.shape[1]) if lengths is None else lengths.clamp(min=1)[:, None].to(y.dtype)
    return y.sum(dim=1) / count


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """(B, L, d), bool (B, L) or None -> (B, d), the mean of the real tokens; 0 where there is none."""
    if mask is None:
        return mean_of_packed(tokens, None)
    return mean_of_packed(tokens.masked_fill(~mask[..., None], 0.0), mask.sum(1))


def sum_terms(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of (B, d) terms."""
    first, *others = terms.values()
    for other in others:
        first = first + other
    return first


def check_tokens(
    tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor | None] | None, widths: Mapping[str, int]
) -> Mapping[str, Tensor | None]:
    """The masks, `{}` for None, after a check of both against each other and the widths by name.

    Raises:
        UsageError: says which modality is wrong, and how.
    """
    masks = masks or {}
    if not tokens:
        raise UsageError(f"no modality is given; there are {', '.join(widths)}")
    if unknown := sorted({*tokens, *masks} - set(widths)):
        raise UsageError(f"no modality named {', '.join(unknown)}; there are {', '.join(widths)}")
    if unused := sorted(set(masks) - set(tokens)):
        raise UsageError(f"a mask but no tokens of {', '.join(unused)}")
    batch = next(iter(tokens.values())).shape[0]
    for name, given in tokens.items():
        if given.dim() != 3 or given.shape[0] != batch or given.shape[2] != widths[name]:
            raise UsageError(f"{name} is tokens ({batch}, L, {widths[name]}), got {tuple(given.shape)}")
        mask = masks.get(name)
        if mask is not None and (mask.dtype != torch.bool or mask.shape != given.shape[:2]):
            raise UsageError(
                f"the mask of {name} is bool {tuple(given.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}"
            )
    return masks


def check_names(names: Iterable[str]) -> None:
    """UsageError for a modality's name that cannot be part of a parameter's name, such as "video.rgb"."""
    for name in names:
        if not name or "." in name or any(hasattr(kind(), name) for kind in (nn.ModuleDict, nn.ParameterDict)):
            raise UsageError(
                f"a modality cannot be named {name!r}: names must not be empty, have dots, or be those of torch's own "
                "attributes, such as 'type' or 'keys'"
            )


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """UsageError where `value` is none of the choices."""
    if value not in choices:
        raise UsageError(f"{option} is one of {', '.join(choices)}, not {value!r}")


def _wide(parameter: Tensor) -> Tensor:
    """float32, or float64 where the parameter is float64: what the state is computed in."""
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))
