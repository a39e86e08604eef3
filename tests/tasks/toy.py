"""A small run with everything random in it: shuffled order, augmentation, dropout, noise, AdamW, warm-up."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from crossmamba.tasks.checkpoints import RunCheckpoints
from crossmamba.tasks.resume import AtomicCheckpointIO, ExactResume, ResumableDataModule, derive_seed

# Arguments that make configs/avs/demo.yaml a run of a second.
TINY = (
    "--data.image_size 32 --data.batch_size 2 --model.model_args.width 16 --model.model_args.d_state 2 "
    "--model.model_args.scan_orders 2 --model.model_args.drop_path 0.1 --model.warmup_steps 2 "
    "--trainer.limit_train_batches 3 --trainer.max_epochs 2 --trainer.enable_progress_bar false --run.log_every 1"
)  # 2 epochs x 3 steps


class ToyDataset:
    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        sample = torch.Generator().manual_seed(index)
        augmentation = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, index))
        x = torch.randn(6, generator=sample)
        return {
            "x": x + 0.1 * torch.randn(6, generator=augmentation),
            "y": x.sum(),
            "index": index,
            "clip_id": f"c{index}",
        }


class ToyData(ResumableDataModule):
    def __init__(self, size: int = 11, batch_size: int = 3, num_workers: int = 0, seed: int = 5) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.size = size

    def train_dataset(self) -> ToyDataset:
        return ToyDataset(self.size, self.seed)

    def val_dataset(self) -> ToyDataset:
        return ToyDataset(5, self.seed + 1)


class ToyTask(LightningModule):
    nan_policy = "stop"
    monitor = "val/score"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))
        self.losses: list[tuple[int, float]] = []
        self.scores: list[tuple[int, float]] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        x = batch["x"] + 0.05 * torch.randn_like(batch["x"])
        loss = (self.model(x).squeeze(-1) - batch["y"]).square().mean()
        self.losses.append((self.trainer.global_step, loss.item()))
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        error = (self.model(batch["x"]).squeeze(-1) - batch["y"]).square().mean()
        self.log("val/score", -error, on_epoch=True, batch_size=len(batch["y"]), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        self.scores.append((self.trainer.global_step, self.trainer.callback_metrics["val/score"].item()))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        total = self.trainer.datamodule.total_steps

        def factor(step: int) -> float:
            return 1 - 0.9 * step / total

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Killed(Exception):
    pass


class StopAt(Callback):
    """Stops the run after `step`: "kill" as SIGKILL does (nothing is saved), "term" by a real SIGTERM."""

    def __init__(self, step: int, how: str) -> None:
        self.step, self.how = step, how

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step - 1 and self.how == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        if trainer.global_step == self.step and self.how == "kill":
            raise Killed

    def on_validation_start(self, trainer, pl_module) -> None:
        if trainer.global_step == self.step and self.how == "kill in validation":
            raise Killed


class DumpWeights(Callback):
    """At the end writes what this rank has to `folder/rankN.pt`."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer, pl_module) -> None:
        content = {"weights": pl_module.state_dict()}
        content |= {name: getattr(pl_module, name) for name in ("scores", "losses") if hasattr(pl_module, name)}
        torch.save(content, self.folder / f"rank{trainer.global_rank}.pt")


def trainer(folder: Path, *, stop: StopAt | None = None, epochs: int = 3, every: int = 2, **options) -> Trainer:
    checkpoints = RunCheckpoints(folder, every_n_steps=every)
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[ExactResume(5), checkpoints, *([stop] if stop else [])],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        **options,
    )


def fit(folder: Path, *, resume: bool = False, data: dict | None = None, **options) -> ToyTask:
    """One process's part of a run in `folder`; returns the task with what it saw."""
    task = ToyTask()
    last = folder / "last.ckpt"
    engine = trainer(folder, **options)
    task.checkpoints = next(c for c in engine.callbacks if isinstance(c, RunCheckpoints))
    with contextlib.suppress(Killed):
        engine.fit(task, datamodule=ToyData(**(data or {})), ckpt_path=last if resume and last.exists() else None)
    return task


def same_weights(a: ToyTask, b: ToyTask) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
