"""Callbacks for configs in tests: real signals to the real process, at an exact step."""

import os
import signal

import torch
from lightning.pytorch import Callback


class SignalAt(Callback):
    """Signals this process while step `step` (from 1) runs; with `while_saving`, in the middle of the next write."""

    def __init__(self, step: int, name: str, while_saving: bool = False) -> None:
        self.step, self.number, self.while_saving = step, signal.Signals[name], while_saving

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step != self.step - 1:
            return
        if not self.while_saving:
            os.kill(os.getpid(), self.number)
            return

        def half(checkpoint, file):
            file.write(b"PK\x03\x04half a checkpoint")
            file.flush()
            os.kill(os.getpid(), self.number)

        torch.save = half
