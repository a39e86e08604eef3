"""The published scoring protocols, exact and named; usable without the rest of the package.

frames.py, semantic.py   binary masks (M_J, M_F) and semantic masks (official, `cavp`): functions on tensors
avs.py, avss.py          the same as torchmetrics, for training and evaluation loops
score.py                 files of predicted masks against files of truth
"""

from crossmamba.metrics.avs import AVSMetric
from crossmamba.metrics.avss import AVSSMetric
from crossmamba.metrics.frames import fmeasure, frame_f_curves, frame_iou, mask_iou
from crossmamba.metrics.score import ScoreReport, score_folders
from crossmamba.metrics.semantic import avss_scores, cavp_scores

__all__ = [
    "AVSMetric",
    "AVSSMetric",
    "ScoreReport",
    "avss_scores",
    "cavp_scores",
    "fmeasure",
    "frame_f_curves",
    "frame_iou",
    "mask_iou",
    "score_folders",
]
