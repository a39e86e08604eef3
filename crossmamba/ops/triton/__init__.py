"""The scan for GPUs, in Triton."""
