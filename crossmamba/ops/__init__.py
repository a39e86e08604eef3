"""Operators on tensors: selective scans and the routes they walk. Imports torch only."""

from crossmamba.ops.backends import (
    ScanBackend,
    ScanGradients,
    ScanInputs,
    SlowBackendError,
    SlowBackendWarning,
    StepInputs,
    list_backends,
    register_backend,
    registered_backend,
    resolve_backend,
)
from crossmamba.ops.native import INSTRUCTION_SETS, NativeBackend
from crossmamba.ops.portable import PortableBackend
from crossmamba.ops.reference import ReferenceBackend, canonical_scan_ref, route_scan_ref, selective_scan_ref
from crossmamba.ops.routes import RouteTable, check_route_name, grid_order, route_table
from crossmamba.ops.selective_scan import route_scan, selective_scan_fn
from crossmamba.ops.step import selective_state_update
from crossmamba.ops.triton import TritonBackend

register_backend(ReferenceBackend())
register_backend(PortableBackend())
for isa in (None, *INSTRUCTION_SETS):
    register_backend(NativeBackend(isa))
register_backend(TritonBackend())

__all__ = [
    "RouteTable",
    "ScanBackend",
    "ScanGradients",
    "ScanInputs",
    "SlowBackendError",
    "SlowBackendWarning",
    "StepInputs",
    "canonical_scan_ref",
    "check_route_name",
    "grid_order",
    "list_backends",
    "register_backend",
    "registered_backend",
    "resolve_backend",
    "route_scan",
    "route_scan_ref",
    "route_table",
    "selective_scan_fn",
    "selective_scan_ref",
    "selective_state_update",
]
