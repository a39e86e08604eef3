"""Equations as modules. Every block is the same recurrence; what differs is what is scanned, along which routes, and
what conditions the scan. Imports ops only."""

from crossmamba.blocks.cm_mamba import CMMamba, ConditionalMamba
from crossmamba.blocks.fusion import CMFusion, FusionScan
from crossmamba.blocks.layers import DropPath
from crossmamba.blocks.mamba import Mamba
from crossmamba.blocks.mask_head import MaskHead
from crossmamba.blocks.scan_mixer import MixFFN, ScanLayer, ScanMixer
from crossmamba.blocks.ssm import RouteSSM
from crossmamba.blocks.ssm_fusion import SSMFusion

__all__ = [
    "CMFusion",
    "CMMamba",
    "ConditionalMamba",
    "DropPath",
    "FusionScan",
    "Mamba",
    "MaskHead",
    "MixFFN",
    "RouteSSM",
    "SSMFusion",
    "ScanLayer",
    "ScanMixer",
]
