"""Operators on tensors: selective scans and the routes they walk. Imports torch only."""

from crossmamba.ops.backends import RouteInputs, ScanBackend, ScanInputs, get_backend, list_backends, register_backend
from crossmamba.ops.portable import PortableBackend
from crossmamba.ops.reference import ReferenceBackend, route_scan_ref, selective_scan_ref
from crossmamba.ops.routes import RouteTable, check_route_name, grid_order, route_table
from crossmamba.ops.selective_scan import route_scan, selective_scan_fn

register_backend(ReferenceBackend())
register_backend(PortableBackend())

__all__ = [
    "RouteInputs",
    "RouteTable",
    "ScanBackend",
    "ScanInputs",
    "check_route_name",
    "get_backend",
    "grid_order",
    "list_backends",
    "register_backend",
    "route_scan",
    "route_scan_ref",
    "route_table",
    "selective_scan_fn",
    "selective_scan_ref",
]
