"""Makes Triton's interpreter, where it runs (TRITON_INTERPRET=1), bearable, round as a GPU, and 3.6's run at all."""

from __future__ import annotations

import os
from typing import Any

if os.environ.get("TRITON_INTERPRET") == "1":
    import numpy as np
    import torch
    import triton
    import triton.language as tl
    import triton.runtime.interpreter as interpreter

    from crossmamba.ops.triton import backend

    patched: set[int] = set()  # modules whose names the kernel that runs has already had replaced
    run_grid = interpreter.GridExecutor.__call__

    def run_grid_afresh(self: Any, *arguments: Any, **options: Any) -> Any:
        patched.clear()
        try:
            return run_grid(self, *arguments, **options)
        finally:
            patched.clear()

    def call_helper(self: Any, *arguments: Any, **options: Any) -> Any:
        """A kernel's call of a helper. Triton replaces the language's names anew at each: two thirds of all time."""
        names = self.fn.__globals__
        if id(names) not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(id(names))
        return self.rewrite()(*arguments, **options)

    interpreter.GridExecutor.__call__ = run_grid_afresh
    interpreter.InterpretedFunction.__call__ = call_helper

    cast = interpreter.InterpreterBuilder.cast_impl

    def cast_to_nearest(self: Any, value: Any, to: Any) -> Any:
        """float32 to bfloat16 as GPUs do it. The interpreter (3.9's) cuts the digits off, twice the error."""
        if value.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            rounded = torch.from_numpy(np.array(value.data)).bfloat16().view(torch.int16).numpy().view(np.uint16)
            return interpreter.TensorHandle(rounded, tl.bfloat16)
        return cast(self, value, to)

    interpreter.InterpreterBuilder.cast_impl = cast_to_nearest

    if triton.__version__.startswith("3.6."):
        # Its tensors, as bounds of a loop, take int() of an array of one element, which numpy 2.4 refuses
        # (github.com/triton-lang/triton/issues/9171, mended in Triton 3.7).
        patch_tensor = interpreter._patch_lang_tensor

        def patch_tensor_and_index(tensor: Any, scope: Any) -> None:
            patch_tensor(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

        interpreter._patch_lang_tensor = patch_tensor_and_index
        backend.interpreter_fault = lambda: None
