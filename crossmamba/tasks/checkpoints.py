"""When checkpoints are written: `last.ckpt` often and at a signal, `best.ckpt` and the exported model at the best
score."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from crossmamba.errors import UsageError


class TrainingStopped(Exception):
    """A signal asked for the end; the step was finished and `last.ckpt` written.

    Attributes: `step`, optimiser steps done; `exit_code`, 128 + the signal's number.
    """

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after step {step}")
        self.step = step
        self.exit_code = 128 + signal_number


class RunCheckpoints(Callback):
    """Keeps `folder/last.ckpt` current and `folder/best.ckpt` at the best validation.

    `last.ckpt` is written every `every_n_steps` optimiser steps, at the end of every epoch, and when SIGTERM or
    SIGINT arrives: then the running step (or, at the end of an epoch, its validation) is finished, the checkpoint
    written and `TrainingStopped` raised. A second SIGINT aborts at once. Where several processes train, a signal to
    one of them stops all.

    No checkpoint is written between the last step of an epoch and its validation: Lightning would resume after the
    validation and the epoch's score would be lost.

    `best.ckpt` holds the weights only; which validation is best is decided by the metric that the module names as its
    `monitor` (a module without one keeps no best). If the module has `export_model(folder, metrics)`, that is called
    too with `export_folder`. The higher the better; of equal ones the first counts.

    Args:
        folder: of the checkpoints.
        every_n_steps: optimiser steps between writes of `last.ckpt`; 0 for epoch ends only.
        export_folder: where the best model goes, replaced as a whole.
    """

    def __init__(self, folder: Path, *, every_n_steps: int = 200, export_folder: Path | None = None) -> None:
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.export_folder = export_folder
        self.best_value: float | None = None
        self.best_step: int | None = None
        self._signal: int | None = None
        self._last_step = -1
        self._previous_handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value, self.best_step = state_dict["best_value"], state_dict["best_step"]

    # Signals --------------------
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        self._signal = signal.SIGTERM if trainer.received_sigterm else None
        # Lightning's own handler stops at the next batch without saving; ours takes its place until training ends.
        self._previous_handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in self._previous_handlers:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous_handlers = {}

    def _stop_signal(self, trainer: Trainer) -> int:
        """The number of the signal that any rank received, else 0. The same on every rank."""
        mine = torch.tensor(self._signal or 0, device=trainer.strategy.root_device)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(mine, op=torch.distributed.ReduceOp.MAX)
        return int(mine)

    # last.ckpt --------------------
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        inside_accumulation = step == self._last_step
        self._last_step = step
        if inside_accumulation or trainer.is_last_batch:  # the epoch's end saves after the last batch
            return
        stop = self._stop_signal(trainer)
        if stop or (self.every_n_steps and step % self.every_n_steps == 0):
            self._save_last(trainer)
        if stop:
            raise TrainingStopped(step, stop)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_last(trainer)
        if stop := self._stop_signal(trainer):
            raise TrainingStopped(trainer.global_step, stop)

    def _save_last(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / "last.ckpt")

    # best.ckpt --------------------
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        monitor = getattr(pl_module, "monitor", None)
        if trainer.sanity_checking or monitor is None:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if monitor not in metrics:
            raise UsageError(f"validation gave no {monitor!r} to choose the best model by; it gave {sorted(metrics)}")
        value = metrics[monitor]
        if self.best_value is None or value > self.best_value:
            self.best_value, self.best_step = value, trainer.global_step
            trainer.save_checkpoint(self.folder / "best.ckpt", weights_only=True)
            self._export(trainer, pl_module, metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.best_step is None:  # no validation ran: the model of the run is its last one
            self._export(trainer, pl_module, {})

    def _export(self, trainer: Trainer, pl_module: LightningModule, metrics: dict[str, float]) -> None:
        if self.export_folder is not None and hasattr(pl_module, "export_model") and trainer.is_global_zero:
            pl_module.export_model(self.export_folder, metrics)
