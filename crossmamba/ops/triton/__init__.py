"""The scan for GPUs, in Triton: chunked where a sequence must be spread over the GPU, deterministic always.

arguments, launch, plan, tuning    what kernels get, how they are started, how a scan is cut, what was measured
forward, backward                  the launches of each pass
numerics, access                   functions and memory accesses that kernels share
kernels_*                          the kernels
offline                            compiles them for a GPU that is not there
"""

from crossmamba.ops.triton.backend import TritonBackend

__all__ = ["TritonBackend"]
