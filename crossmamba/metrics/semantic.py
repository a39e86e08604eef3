"""Semantic audio-visual segmentation (spec §3.3 and §3.5).

official   for each frame and class: I pixels right, U in prediction or truth, IoU_c = I / (2.2e-16 + U) and
           F_c = (1 + beta^2) P R / (beta^2 P + R), P = I / predicted, R = I / true, 0 for 0/0, beta^2 = 0.3.
           Sums over the frames with U > 0, divided by how many those were, 0 for a class never seen; then the mean over
           all 71 classes, background (class 0) included.
cavp       pixels of the whole set first: IoU_c = sum I / sum U. Not comparable with the official numbers (on AVSS
           typically 5 to 25 points above them); used by CAVP, CPM, TeSO, DDESeg and BYOAVP.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crossmamba.errors import UsageError

__all__ = ["CLASSES", "ClassCounts", "avss_scores", "cavp_scores", "class_counts", "summarise"]

CLASSES = 71  # 70 objects and the background, which is class 0
BETA_SQUARED = 0.3


@dataclass
class ClassCounts:
    """Pixels of each frame and class.

    Attributes:
        both: (N, C) predicted and true.
        predicted: (N, C).
        true: (N, C).
    """

    both: Tensor
    predicted: Tensor
    true: Tensor

    @property
    def union(self) -> Tensor:
        """(N, C) predicted or true."""
        return self.predicted + self.true - self.both

    def iou(self) -> Tensor:
        """(N, C) float64."""
        return self.both / (2.2e-16 + self.union)

    def f(self) -> Tensor:
        """(N, C) float64, 0 where precision and recall are 0 or not defined."""
        precision, recall = self.both / self.predicted, self.both / self.true
        return ((1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)).nan_to_num(0.0)

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of IoU, sum of F, number of frames) over the frames with union > 0, each (C,) float64."""
        seen = self.union > 0
        return (self.iou() * seen).sum(0), (self.f() * seen).sum(0), seen.sum(0).double()


def class_counts(labels: Tensor, truth: Tensor, n_classes: int = CLASSES) -> ClassCounts:
    """Counts the pixels of each class in each frame.

    Args:
        labels, truth: (N, H, W) whole numbers from 0 to `n_classes` - 1.
        n_classes: C.

    Raises:
        UsageError: other shapes, types or labels.
    """
    if labels.shape != truth.shape or labels.ndim != 3:
        raise UsageError(f"labels {tuple(labels.shape)} and truth {tuple(truth.shape)}; both must be (frames, H, W)")
    if labels.is_floating_point() or truth.is_floating_point():
        raise UsageError("labels and truth must be whole numbers: take the argmax over the classes first")
    n = len(labels)
    labels, truth = (t.to("cpu", torch.int64).flatten(1) for t in (labels, truth))  # float64 follows, which MPS lacks
    for name, values in (("labels", labels), ("truth", truth)):
        if values.numel() and (int(values.min()) < 0 or int(values.max()) >= n_classes):
            raise UsageError(f"{name} from {int(values.min())} to {int(values.max())}; allowed: 0 to {n_classes - 1}")
    frame = torch.arange(n)[:, None] * n_classes

    def histogram(places: Tensor) -> Tensor:
        return torch.bincount(places.flatten(), minlength=n * n_classes).view(n, n_classes).double()

    right = (labels + frame)[labels == truth]
    return ClassCounts(histogram(right), histogram(labels + frame), histogram(truth + frame))


def summarise(iou_sum: Tensor, f_sum: Tensor, frames: Tensor) -> dict[str, Tensor]:
    """The official means from the sums over frames, each (C,).

    Returns:
        `mIoU`, `F`: over all classes with background, classes never seen as 0: the comparable numbers.
        `mIoU_no_bg`, `F_no_bg`: without class 0.
        `mIoU_official_no_bg`, `F_official_no_bg`: the official "no background", which by a bug drops the last class
        ("woman") and keeps the background; for comparison with numbers printed by the official code.
        `IoU_per_class`, `F_per_class`: (C,).
    """
    iou = (iou_sum / frames).nan_to_num(0.0)
    f = (f_sum / frames).nan_to_num(0.0)
    result = {"IoU_per_class": iou, "F_per_class": f}
    for name, values in (("mIoU", iou), ("F", f)):
        result |= {
            name: values.mean(),
            f"{name}_no_bg": values[1:].mean(),
            f"{name}_official_no_bg": values[:-1].mean(),
        }
    return result


def avss_scores(labels: Tensor, truth: Tensor, n_classes: int = CLASSES) -> dict[str, Tensor]:
    """The official scores of a set of frames, see `summarise`; (N, H, W) labels as for `class_counts`."""
    return summarise(*class_counts(labels, truth, n_classes).sums())


def cavp_scores(labels: Tensor, truth: Tensor, n_classes: int = CLASSES) -> dict[str, Tensor]:
    """Protocol `cavp`: pixels of the whole set are added up before any quotient. Not comparable with `avss_scores`.

    Classes that neither prediction nor truth ever holds are left out of the means (the public descriptions do not say
    otherwise). For binary masks give 0 and 1 with `n_classes=2`.

    Returns:
        `cavp_mIoU`, `cavp_F`, and `cavp_IoU_per_class`, `cavp_F_per_class` (C,) with NaN for classes never seen.
    """
    counts = class_counts(labels, truth, n_classes)
    whole = ClassCounts(*(pixels.sum(0, keepdim=True) for pixels in (counts.both, counts.predicted, counts.true)))
    seen = whole.union[0] > 0
    iou = torch.where(seen, whole.iou()[0], torch.nan)
    f = torch.where(seen, whole.f()[0], torch.nan)
    return {
        "cavp_mIoU": iou[seen].mean(),
        "cavp_F": f[seen].mean(),
        "cavp_IoU_per_class": iou,
        "cavp_F_per_class": f,
    }
