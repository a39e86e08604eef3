"""Makes Triton's interpreter bearable, where it runs (TRITON_INTERPRET=1)."""

from __future__ import annotations

import os
from typing import Any

if os.environ.get("TRITON_INTERPRET") == "1":
    import triton.runtime.interpreter as interpreter

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
