"""What a run tells while it goes: metrics.csv and one progress bar on stderr."""

from __future__ import annotations

import csv
import io
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from crossmamba.tasks.run_folder import write_text_atomically

FIRST_COLUMNS = ("step", "epoch", "seconds", "lr")


class MetricsTable(Callback):
    """Writes metrics.csv: one row per logged step, one column per metric, empty where nothing was measured.

    `step` counts optimiser steps done, `epoch` counts from 1, `seconds` is the time spent in training so far,
    `train/loss` is the mean over the step's micro-batches and processes. Numbers are written in full (they read back
    bit-equal). After a resume the rows beyond the checkpoint's step are dropped: they are computed again.

    Args:
        path: of the table.
        every_n_steps: how often a training row is written; validation rows are always.
    """

    def __init__(self, path: Path, every_n_steps: int = 10) -> None:
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        self.rows: dict[int, dict[str, Any]] = {}
        self._columns: list[str] = []
        self._losses: list[torch.Tensor] = []
        self._last_step = -1
        self._seconds_before = 0.0
        self._started = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds_before = state_dict["seconds"]

    def _seconds(self) -> float:
        return self._seconds_before + (time.monotonic() - self._started if self._started else 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()
        self._last_step = trainer.global_step
        if trainer.is_global_zero:
            self.rows = {row["step"]: row for row in read_table(self.path) if row["step"] <= trainer.global_step}
            self._rewrite()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(trainer.callback_metrics["train/loss"].detach())
        step = trainer.global_step
        if step == self._last_step:  # inside an accumulation
            return
        self._last_step = step
        loss = torch.stack(self._losses).mean()
        self._losses = []
        if step % self.every_n_steps == 0 or trainer.is_last_batch:
            loss = trainer.strategy.reduce(loss, reduce_op="mean")
            row = {"lr": trainer.optimizers[0].param_groups[-1]["lr"], "train/loss": loss.item()}
            if trainer.is_last_batch:
                for callback in trainer.callbacks:
                    row.update(callback.table_values() if hasattr(callback, "table_values") else {})
            self._write(trainer, row)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("train/")}
            self._write(trainer, metrics)

    def _write(self, trainer: Trainer, values: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        is_new = step not in self.rows
        row = self.rows.setdefault(step, {"step": step, "epoch": trainer.current_epoch + 1})
        row.update(values, seconds=round(self._seconds(), 2))
        if is_new and row.keys() <= set(self._columns):
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            self._rewrite()

    def _rewrite(self) -> None:
        names = {name for row in self.rows.values() for name in row}
        self._columns = [*FIRST_COLUMNS, *sorted(names - set(FIRST_COLUMNS))]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self.rows.values())
        write_text_atomically(self.path, text.getvalue())


def read_table(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.csv: `step` and `epoch` int, the rest float; empty cells left out, a half-written last
    line too."""
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    with open(path, newline="") as file:
        text = file.read()
    for row in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])):
        cells = {name: float(cell) for name, cell in row.items() if cell}
        rows.append({**cells, "step": int(row["step"]), "epoch": int(row["epoch"])})
    return rows


class ProgressBar(Callback):
    """One tqdm bar over the steps of the whole run, on stderr, with the last loss and validation score."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._shown: dict[str, str] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            terminal = sys.stderr.isatty()
            self._bar = tqdm(
                total=trainer.datamodule.total_steps,
                initial=trainer.global_step,
                unit="step",
                desc="training",
                file=sys.stderr,
                dynamic_ncols=terminal,
                mininterval=0.5 if terminal else 10,
            )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._bar is not None and (done := trainer.global_step - self._bar.n):
            if self._bar.n % 10 == 0:
                self._show(loss=f"{float(trainer.callback_metrics['train/loss']):.3f}")
            self._bar.update(done)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        monitor = getattr(pl_module, "monitor", None)
        if monitor in trainer.callback_metrics and not trainer.sanity_checking:
            self._show(**{monitor: f"{float(trainer.callback_metrics[monitor]):.3f}"})

    def _show(self, **values: str) -> None:
        if self._bar is not None:
            self._shown.update(values)
            self._bar.set_postfix(self._shown, refresh=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
