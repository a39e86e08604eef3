"""Alignment of sound and picture in hyperbolic space, with a curvature of its own for each video (SHMamba).

Symbols:
    V videos, T seconds, D width     a, v    (V, T, D) sound and picture, tangent vectors at the origin
    K_av     (V, 2 D)                mean over time of sound and picture, side by side
    c        (V, 1, 1)               the ball has the curvature k = -c;   c = c_min + k0 sigmoid(Linear(K_av))
    a_h, v_h (V, T, D)               points of the ball: exp0 of the clipped tangent vectors

The paper states k = k0 sigmoid(MLP(K_av)), with a linear layer as MLP, for a negative curvature k; the sign, c_min and
k0 are ours. So are the three losses: the paper's is not known. `GramLoss` is that of the closest public code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.blocks.hyperbolic import CLIP_RADIUS, clip_tangent, dist, exp0, log0, project, without_autocast

ALIGNMENTS = ("distance", "infonce", "gram_mse")


class AdaptiveCurvature(nn.Module):
    """c = c_min + k0 sigmoid(Linear(K_av)), in float32 with autocast off.

    Args:
        dim: D. k0: range of c. c_min: its floor, above 0 because the gradient of sqrt(c) is infinite at 0.

    Raises:
        ValueError: k0 < 0 or c_min <= 0.

    Parameter count: 2 D + 1.
    """

    def __init__(self, dim: int, k0: float = 1.0, c_min: float = 1e-3) -> None:
        super().__init__()
        _check_range(k0, c_min)
        self.k0, self.c_min = k0, c_min
        self.linear = nn.Linear(2 * dim, 1)

    def forward(self, a: Tensor, v: Tensor) -> Tensor:
        """(V, T, D), (V, T, D) -> c (V, 1, 1)."""
        with without_autocast(a):
            both = torch.cat([_mean(a), _mean(v)], dim=-1).to(self.linear.weight.dtype)  # (V, 2 D)
            return (self.c_min + self.k0 * torch.sigmoid(self.linear(both)))[:, None]


class FixedCurvature(nn.Module):
    """The same c for every video: c_min + k0 / 2, where `AdaptiveCurvature` starts. No parameters."""

    def __init__(self, k0: float = 1.0, c_min: float = 1e-3) -> None:
        super().__init__()
        _check_range(k0, c_min)
        self.c = c_min + k0 / 2

    def forward(self, a: Tensor, v: Tensor) -> Tensor:
        """(V, T, D), (V, T, D) -> c (V, 1, 1)."""
        dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
        return torch.full((a.shape[0], 1, 1), self.c, dtype=dtype, device=a.device)


class DistanceLoss(nn.Module):
    """The mean distance d_c(a_h, v_h) of the two points of a second. Moves the curvature.

    Its smallest value, 0, is reached when all points of all videos are one. Beside cross-entropy a weight of 0.1 or
    0.01 led there within 450 steps on the concert world, 0.001 did not; `InfoNCELoss` has no such end.
    """

    def forward(self, a: Tensor, v: Tensor, c: Tensor) -> Tensor:
        """a, v (V, T, D), c (V, 1, 1) -> ()."""
        return dist(to_ball(a, c), to_ball(v, c), c).mean()


class InfoNCELoss(nn.Module):
    """Cross-entropy on -d_c / τ: a video's sound must be nearer to its own picture than to the batch's other pictures,
    and the other way round; the mean of both. One point a video and modality, the mean over time (as in K_av).

    A distance needs one ball for both points: row i of either matrix uses video i's curvature. With one video in the
    batch there is nothing to tell apart, and the loss is 0.

    Args:
        temperature: τ (ours; it is known for no paper).
    """

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"the temperature is above 0, not {temperature}")
        self.temperature = temperature

    def forward(self, a: Tensor, v: Tensor, c: Tensor) -> Tensor:
        """a, v (V, T, D), c (V, 1, 1) -> ()."""
        a, v = _mean(a), _mean(v)  # (V, D)
        own = torch.arange(a.shape[0], device=a.device)
        losses = []
        for anchors, others in ((a, v), (v, a)):
            apart = dist(to_ball(anchors[:, None], c), to_ball(others[None], c), c)  # (V, V), row i in the ball c_i
            losses.append(F.cross_entropy(-apart / self.temperature, own))
        return (losses[0] + losses[1]) / 2


class GramLoss(nn.Module):
    """Mean squared difference of the two modalities' V x V cosine matrices, as in the public Hyper-AVZSL code (Hong et
    al., ICCV 2023): features are taken as points, projected into the ball and mapped by log0.

    **Does not depend on the curvature**: projecting and log0 only rescale each row, and the cosine removes a row's
    scale. Its gradient to the curvature is rounding (2e-9, spec §2.2; tested). Kept for comparison.
    """

    def forward(self, a: Tensor, v: Tensor, c: Tensor) -> Tensor:
        """a, v (V, T, D), c (V, 1, 1) -> ()."""
        with without_autocast(a):
            grams = []
            for x in (a, v):
                rows = F.normalize(log0(project(_mean(x), c[:, 0]), c[:, 0]), dim=-1)  # (V, D)
                grams.append(rows @ rows.T)
            return F.mse_loss(*grams)


class HyperbolicAlignment(nn.Module):
    """Sound and picture into the ball of each video's curvature, and the alignment loss.

    Args:
        curvature: module (a, v) -> c. loss: module (a, v, c) -> (). weight: of the loss.
        space: what goes on to the next part: "tangent" (log0 of the points) or "ball" (their coordinates).
        radius: tangent vectors are clipped to radius / sqrt(c), see `clip_tangent`.

    In the tangent space what goes on is the clipped input again, since log0 undoes exp0: only the loss and the clip
    know the curvature then.

    Raises:
        ValueError: an unknown space.
    """

    def __init__(
        self,
        curvature: nn.Module,
        loss: nn.Module,
        *,
        weight: float = 0.1,
        space: str = "tangent",
    ) -> None:
        super().__init__()
        if space not in ("tangent", "ball"):
            raise ValueError(f"space is 'tangent' or 'ball', not {space!r}")
        self.curvature, self.loss, self.weight, self.space = curvature, loss, weight, space

    def forward(self, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """a, v (V, T, D) -> the same after the ball, and {"alignment": weighted loss} in training mode, else {}."""
        c = self.curvature(a, v)  # (V, 1, 1)
        losses = {"alignment": self.weight * self.loss(a, v, c)} if self.training else {}
        points = to_ball(a, c), to_ball(v, c)
        onward = points if self.space == "ball" else (log0(points[0], c), log0(points[1], c))
        if a.is_meta or not torch.is_autocast_enabled(a.device.type):  # a model all in half precision goes on in it
            onward = onward[0].to(a.dtype), onward[1].to(v.dtype)
        return *onward, losses


class NoAlignment(nn.Module):
    """Flat space: features go on as they are, and there is no loss (the ablation "no alignment")."""

    def forward(self, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """a, v (V, T, D) -> a, v, {}."""
        return a, v, {}


def to_ball(u: Tensor, c: Tensor) -> Tensor:
    """Tangent vectors (..., D), clipped to 2 / sqrt(c), as points (..., D) safely inside the rim."""
    return project(exp0(clip_tangent(u, c, CLIP_RADIUS), c), c)


def _mean(x: Tensor) -> Tensor:
    """(V, T, D) -> (V, D), over time, in float32 at least."""
    return x.mean(1, dtype=x.dtype if x.dtype == torch.float64 else torch.float32)


def build_alignment(
    name: str,
    dim: int,
    *,
    curvature: str,
    k0: float,
    c_min: float,
    weight: float | None,
    temperature: float,
    space: str,
) -> HyperbolicAlignment | NoAlignment:
    """The alignment "distance", "infonce", "gram_mse" or "none", with curvature "adaptive" or "fixed".

    `weight` None: 1e-3 for gram_mse (the public code's), 0.1 otherwise (ours).

    Raises:
        ValueError: an unknown name, or the space "ball" without an alignment.
    """
    if name == "none":
        if space != "tangent":
            raise ValueError("alignment 'none' is flat space: there is no ball for space='ball'")
        return NoAlignment()
    losses = {"distance": DistanceLoss, "infonce": lambda: InfoNCELoss(temperature), "gram_mse": GramLoss}
    if name not in losses:
        raise ValueError(f"alignment is {', '.join(ALIGNMENTS)} or none, not {name!r}")
    if curvature not in ("adaptive", "fixed"):
        raise ValueError(f"curvature is 'adaptive' or 'fixed', not {curvature!r}")
    bend = AdaptiveCurvature(dim, k0, c_min) if curvature == "adaptive" else FixedCurvature(k0, c_min)
    weight = (1e-3 if name == "gram_mse" else 0.1) if weight is None else weight
    return HyperbolicAlignment(bend, losses[name](), weight=weight, space=space)


def _check_range(k0: float, c_min: float) -> None:
    if k0 < 0 or c_min <= 0:
        raise ValueError(f"k0 {k0} is at least 0 and c_min {c_min} is above 0")
