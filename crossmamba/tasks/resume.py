"""Exact resume: a run stopped at any step and continued has bit-equal weights and losses on the same machine.

Lightning restores weights, optimiser and loop counters, but neither random state nor the place in the data. Here
everything random is a *function of the step*, so there is no random state to restore:

* the order of an epoch is a function of (seed, epoch); after a resume the sampler leaves out what was already
  trained on, while its length stays that of the whole epoch (`EpochSampler`);
* epoch and place in it are computed from `global_step`, and the loaders are rebuilt every epoch
  (`ResumableDataModule`);
* the data set draws its augmentation from (seed, epoch, index); loaders own their generator;
* torch, numpy and `random` are seeded by (seed, step, micro-batch, rank) when a batch begins (`ExactResume`);
* checkpoints are written beside their place, synced and renamed (`AtomicCheckpointIO`), and hold only types that
  `torch.load(weights_only=True)` accepts.

Nothing here knows a task. Works with DDP (each rank takes every world-th index). Not exact, and refused: another
number of processes, batch size, accumulation or training set than before. Not tested: FSDP.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import signal
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from crossmamba.errors import CheckpointError, UsageError


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a stable function of the parts (the same on every machine and in every process)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


class EpochSampler(Sampler[int]):
    """The indices that one rank visits in one epoch, from `skip` on. `len()` is that of the whole epoch.

    Args:
        size: number of samples of the data set.
        seed, epoch: the order is a function of these two; ignored if not `shuffle`.
        order: the whole order, in place of the shuffle. It is dealt to the ranks in blocks, so that neighbours stay
            together; without it every rank takes every `world`-th index.
        skip: how many of this rank's samples were already visited.
        rank, world: of this process.
        even: give every rank equally many by starting the order over (training); otherwise no sample comes twice
        (evaluation).
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = False,
        order: Sequence[int] | None = None,
        skip: int = 0,
        rank: int = 0,
        world: int = 1,
        even: bool = True,
    ) -> None:
        if order is not None:
            indices = list(order)
        elif shuffle:
            generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
            indices = torch.randperm(size, generator=generator).tolist()
        else:
            indices = list(range(size))
        if even and size:
            indices += [indices[i % size] for i in range(-size % world)]
        if order is None:
            self.indices = indices[rank::world]
        else:
            share = math.ceil(len(indices) / world)
            self.indices = indices[rank * share : (rank + 1) * share]
        self.skip = skip

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices[self.skip :])

    def __len__(self) -> int:
        return len(self.indices)


class EpochDataset(Protocol):
    """A map-style data set whose randomness is a function of (its seed, epoch, index)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    def set_epoch(self, epoch: int) -> None: ...


def _init_worker(_: int) -> None:
    # A signal to the whole process group (Ctrl+C, a scheduler's SIGTERM) must not kill the workers of a step that
    # the main process wants to finish; they end by themselves when it does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


class ResumableDataModule(LightningDataModule):
    """Base of the data modules: builds loaders whose content is a function of (seed, `trainer.global_step`).

    A subclass gives `train_dataset()` and `val_dataset()` (called once each), and if need be its own `collate`: a
    function without state, which loader processes get a copy of.

    Args:
        batch_size: samples per step, process and micro-batch.
        num_workers: loader processes; 0 loads in the main process. The result does not depend on it.
        seed: of order and augmentation.
    """

    collate = staticmethod(default_collate)

    def __init__(self, *, batch_size: int = 2, num_workers: int = 0, seed: int = 123) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f"data.batch_size is {batch_size}; it must be at least 1")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._datasets: dict[str, Any] = {}

    def train_dataset(self) -> EpochDataset:
        raise NotImplementedError

    def val_dataset(self) -> Dataset[Any]:
        raise NotImplementedError

    def dataset(self, role: str) -> Any:
        """The data set of `role`: "train" or "val"; made on first use."""
        if role not in self._datasets:
            self._datasets[role] = getattr(self, f"{role}_dataset")()
        return self._datasets[role]

    def train_order(self, epoch: int) -> list[int] | None:
        """The order of an epoch, if it is not the shuffle of `EpochSampler`: a function of (seed, epoch)."""
        return None

    def _train_sampler(self, epoch: int = 0, skip: int = 0) -> EpochSampler:
        trainer = self._trainer()
        return EpochSampler(
            len(self.dataset("train")),
            seed=self.seed,
            epoch=epoch,
            shuffle=True,
            order=self.train_order(epoch),
            skip=skip,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )

    def _trainer(self) -> Trainer:
        assert self.trainer is not None, "loaders are built by a Trainer"
        return self.trainer

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches per epoch and rank, after `trainer.limit_train_batches`."""
        limit = self._trainer().limit_train_batches
        batches = math.ceil(len(self._train_sampler()) / self.batch_size)
        return int(batches * limit) if isinstance(limit, float) else min(batches, limit)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch; the last one may take fewer micro-batches."""
        batches = self.batches_per_epoch
        if not batches:
            raise UsageError(
                f"the training set ({len(self.dataset('train'))} samples) gives no batch of {self.batch_size}; "
                "check data.root, the split and trainer.limit_train_batches"
            )
        return math.ceil(batches / self._trainer().accumulate_grad_batches)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run. Use this, not `trainer.estimated_stepping_batches`, which builds the loader
        before a checkpoint's step is known."""
        trainer = self._trainer()
        limits = [trainer.max_steps] if trainer.max_steps > 0 else []
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            limits.append(trainer.max_epochs * self.steps_per_epoch)
        if not limits:
            raise UsageError("the length of the run is not set; give --trainer.max_epochs N")
        return min(limits)

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self._trainer()
        epoch, step = divmod(trainer.global_step, self.steps_per_epoch)
        dataset = self.dataset("train")
        dataset.set_epoch(epoch)
        skip = step * trainer.accumulate_grad_batches * self.batch_size
        return self.loader(dataset, self._train_sampler(epoch, skip))

    def val_dataloader(self) -> DataLoader[Any]:
        trainer = self._trainer()
        dataset = self.dataset("val")
        return self.loader(
            dataset, EpochSampler(len(dataset), rank=trainer.global_rank, world=trainer.world_size, even=False)
        )

    def loader(self, dataset: Dataset[Any], sampler: Sampler[int]) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            worker_init_fn=_init_worker if self.num_workers else None,
            generator=torch.Generator().manual_seed(derive_seed(self.seed, "loader")),
            pin_memory=torch.cuda.is_available(),
        )

    def state_dict(self) -> dict[str, Any]:
        """What must be the same after a resume for it to be exact."""
        trainer = self._trainer()
        return {
            "training samples": len(self.dataset("train")),
            "data.batch_size": self.batch_size,
            "processes": trainer.world_size,
            "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches,
            "batches per epoch": self.batches_per_epoch,
            "seed": self.seed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        now = self.state_dict()
        changed = [f"{key}: {was} then, {now[key]} now" for key, was in state_dict.items() if now.get(key) != was]
        if changed:
            raise UsageError(
                f"this run cannot be resumed exactly, because it changed ({'; '.join(changed)}). "
                "Resume it with the old settings, or start a new run with another --run.dir."
            )


class ExactResume(Callback):
    """Seeds torch, numpy and `random` at the start of each batch by (seed, step, micro-batch, rank)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        connector = trainer._accelerator_connector
        if trainer.reload_dataloaders_every_n_epochs != 1 or connector.use_distributed_sampler:
            raise UsageError(
                "exact resume needs trainer.reload_dataloaders_every_n_epochs=1 "
                "and trainer.use_distributed_sampler=false"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = trainer.datamodule.steps_per_epoch
        if trainer.datamodule.total_steps % steps:
            warnings.warn(
                f"trainer.max_steps={trainer.max_steps} ends the run inside an epoch of {steps} steps: the last steps "
                "are not validated and the run cannot be prolonged exactly. For epochs of N steps set "
                "trainer.limit_train_batches=N and trainer.max_epochs.",
                stacklevel=2,
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seed_batch(trainer.global_step, batch_idx, trainer.global_rank)

    def seed_batch(self, step: int, batch_idx: int, rank: int) -> None:
        seed = derive_seed(self.seed, "batch", step, batch_idx, rank)
        torch.manual_seed(seed)  # all devices
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - for libraries that draw from the global state


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its place, syncs it to disk and renames it; reads with `weights_only=True`.

    Whenever the process is killed, the path holds either the old or the new checkpoint, whole.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return load_checkpoint(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a training checkpoint without executing anything in it.

    Raises:
        CheckpointError: missing, corrupt, or holding anything but tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for a broken file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint of this project ({reason})") from error


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut (POSIX; does nothing where folders cannot be opened)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
