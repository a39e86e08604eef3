"""`crossmamba train`: from a config and overrides to a finished run folder. Knows no task.

The config is typed: keys are constructor arguments, unknown ones are errors (LightningCLI / jsonargparse).

    seed: 123
    run: {checkpoint_every: 200}
    model: {class_path: crossmamba.tasks.avs.AVSTask, init_args: {...}}       # any LightningModule
    data: {class_path: crossmamba.tasks.avs_data.AVSDataModule, init_args: {...}}   # any ResumableDataModule
    trainer: {max_epochs: 120}                                                # lightning.Trainer's arguments
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from crossmamba.errors import CrossmambaError, DataError, UsageError
from crossmamba.tasks.checkpoints import RunCheckpoints, TrainingStopped
from crossmamba.tasks.evaluate import without_worker_traceback
from crossmamba.tasks.guards import BadSampleCount, NonFiniteGuard
from crossmamba.tasks.progress import MetricsTable, ProgressBar
from crossmamba.tasks.resume import AtomicCheckpointIO, ExactResume, ResumableDataModule, load_checkpoint
from crossmamba.tasks.run_folder import RunFolder

TRAINER_DEFAULTS: dict[str, Any] = {
    "num_sanity_val_steps": 0,
    "reload_dataloaders_every_n_epochs": 1,  # exact resume
    "use_distributed_sampler": False,  # exact resume
    "enable_checkpointing": False,  # RunCheckpoints does it
    "enable_model_summary": False,
    "log_every_n_steps": 10,
}


@dataclass
class RunOptions:
    """Where a run is written.

    Args:
        dir: the run folder; by default `runs/NAME`, NAME being that of the config file.
        overwrite: replace an existing run folder.
        checkpoint_every: optimiser steps between writes of `last.ckpt`; every epoch ends with one anyway.
        log_every: optimiser steps between training rows of metrics.csv.
    """

    dir: str | None = None
    overwrite: bool = False
    checkpoint_every: int = 200
    log_every: int = 10


class TrainCLI(LightningCLI):
    """Parses the arguments; `build()` makes the task, the data and the trainer."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        super().__init__(
            model_class=LightningModule,
            datamodule_class=ResumableDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={
                "exit_on_error": False,
                "prog": "crossmamba train",
                "allow_abbrev": False,
            },
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            run=False,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed", type=int, default=123, help="of weights, order, augmentation and dropout")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunOptions, "run")
        parser.add_argument("--resume", type=str | None, default=None, help="continue the run in this folder, exactly")
        parser.link_arguments("seed", "data.init_args.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(self.arguments)

    def _set_seed(self) -> None:
        """`build` seeds, so that parsing alone changes nothing."""

    def instantiate_classes(self) -> None:
        """`build` does it."""

    def settings(self) -> str:
        """The resolved config as YAML, without what only says how this process was started."""
        config = self.config.clone()
        config.resume, config.run.dir, config.run.overwrite = None, None, False
        return self.parser.dump(config, skip_none=False)

    def build_without_weights(self) -> None:
        """Constructs task and data on torch's meta device, which needs no memory: finds wrong values, not wrong
        types."""
        with torch.device("meta"):
            self._instantiate()

    def _instantiate(self) -> Any:
        try:
            return self.parser.instantiate_classes(self.config)
        except CrossmambaError:
            raise
        except ValueError as error:  # jsonargparse's, around what a constructor refused
            raise UsageError(readable(str(error))) from error

    def build(self, folder: RunFolder) -> None:
        """Makes `self.model`, `self.datamodule` and `self.trainer`."""
        seed_everything(self.config.seed, workers=False, verbose=False)
        self.config_init = self._instantiate()
        self.model, self.datamodule = self.config_init.model, self.config_init.data
        for role in ("train", "val"):
            self.datamodule.dataset(role)
        trainer = dict(self.config_init.trainer)
        show_progress = trainer["enable_progress_bar"] is not False
        trainer["enable_progress_bar"] = False  # Lightning's own goes to stdout
        exact = ExactResume(self.config.seed)
        trainer["callbacks"] = [
            exact,
            NonFiniteGuard(getattr(self.model, "nan_policy", "stop"), repeat=exact.seed_batch, folder=folder.path),
            BadSampleCount(getattr(self.datamodule, "bad_sample_limit", 0.001)),
            *_as_list(trainer.get("callbacks")),
            MetricsTable(folder.metrics, self.config.run.log_every),
            RunCheckpoints(
                folder.checkpoints,
                every_n_steps=self.config.run.checkpoint_every,
                export_folder=folder.model,
            ),
            *([ProgressBar()] if show_progress else []),
        ]
        trainer["plugins"] = [AtomicCheckpointIO(), *_as_list(trainer.get("plugins"))]
        if trainer.get("logger") in (None, True):
            trainer["logger"] = TensorBoardLogger(save_dir=folder.path, name="tb", version="")
        trainer["default_root_dir"] = str(folder.path)
        self.trainer = Trainer(**trainer)
        if hasattr(self.model, "check_trainer"):
            self.model.check_trainer(self.trainer)
        if hasattr(self.model, "check_data"):
            self.model.check_data(self.datamodule)


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def parse(arguments: Sequence[str]) -> TrainCLI:
    """Checks the arguments and the config without building anything.

    Raises:
        UsageError: an unknown key, a wrong type or value, or something missing.
    """
    if any(re.match(r"--data\.(init_args\.)?seed\b", argument) for argument in arguments):
        raise UsageError("give --seed N: it also seeds the data")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return TrainCLI(arguments)
    except ArgumentError as error:
        raise UsageError(readable(str(error))) from error


def readable(message: str) -> str:
    """jsonargparse's message in one line: `data (AVSDataModule): batch_size: expected int, got two`."""
    flat = " ".join(message.split()).partition(" Given value type:")[0]
    flat = re.sub(r"\s*- Expected a <class 'NoneType'>.*", "", flat)
    flat = re.sub(r"^Does not validate against any of the Union subtypes .* Errors: - ", "", flat)
    found = re.search(r"Parser key \"(\w+)\".*Problem with given class_path '([^']+)': (.*)", flat)
    if found:
        flat = f"{found[1]} ({found[2].rpartition('.')[2]}): {found[3]}"
    if re.search(r"data .*\"?root\"? is required|required: data\.root|data .*required.*\broot\b", flat):
        return "say where the data set is: --data.root DIR (`crossmamba data synth avsbench-ms3 DIR` makes one)"
    if re.search(r"arguments are required: .*\b(model|data)\b", flat):
        return f"{flat}; give --config FILE (`crossmamba configs ls` lists those that come with the package)"
    flat = re.sub(r"Parser key \"([^\"]+)\":", r"\1:", flat)
    return re.sub(r"Expected a <class '(\w+)'>\. Got value:", r"expected \1, got", flat)


def train(arguments: Sequence[str]) -> int:
    """Runs `crossmamba train ARGUMENTS`. Returns the exit code: 0, or 128 + the signal that stopped the run.

    Raises:
        UsageError, DataError: see the messages.
    """
    _quiet()
    cli, folder, resuming = prepare(arguments)
    first_process = process_rank() == 0
    if first_process and not resuming:
        folder.check_free(overwrite=cli.config.run.overwrite)
    checkpoint = folder.last if resuming and folder.last.exists() else None
    cli.build(folder)
    if first_process:
        if not resuming:  # only now, so that a command that fails at once leaves nothing in the way of the next
            folder.create()
        step = load_checkpoint(checkpoint)["global_step"] if checkpoint else 0
        folder.write_config(cli.settings(), step)
        folder.note_environment(str(cli.trainer.strategy.root_device))
        _tell(f"{'resuming' if resuming else 'starting'} {folder.path} at step {step}")
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint)
    except TrainingStopped as stopped:
        if first_process:
            _tell(f"{stopped}; continue with: crossmamba train --resume {folder.path}")
        return stopped.exit_code
    except DataError as error:
        raise type(error)(without_worker_traceback(str(error))) from error
    if first_process:
        _tell_result(cli, folder)
    return 0


def prepare(arguments: Sequence[str]) -> tuple[TrainCLI, RunFolder, bool]:
    """Parses and finds the run folder. With `--resume RUN` the run's own config is the base of the arguments.

    Returns: the parsed command, its folder, and whether it is resumed.
    """
    arguments = list(arguments)
    resumed = _option(arguments, "--resume")
    if resumed is None:
        cli = parse(arguments)
        config_file = cli.config.config[-1].relative if cli.config.get("config") else "run"
        return cli, RunFolder(cli.config.run.dir or Path("runs") / Path(str(config_file)).stem), False
    folder = RunFolder(resumed)
    folder.require()
    for option in ("--config", "-c", "--run.dir", "--run.overwrite", "--seed"):
        if _option(arguments, option) is not None:
            raise UsageError(f"{option} cannot go with --resume: {folder.config} holds the settings of that run")
    return parse(["--config", str(folder.config), *arguments]), folder, True


def _option(arguments: list[str], name: str) -> str | None:
    """The value of an option in a raw argument list."""
    for position, argument in enumerate(arguments):
        if argument == name:
            return arguments[position + 1] if position + 1 < len(arguments) else ""
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


def process_rank() -> int:
    """This process's rank before a Trainer exists: as torchrun, Lightning's launcher or SLURM tell; 0 alone."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def _quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # True of plain Lightning; the loaders here are resumable.
    warnings.filterwarnings("ignore", message=".*checkpoint that ended before the epoch ended.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")  # frozen encoders
    warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")


def _tell(text: str) -> None:
    print(f"crossmamba train: {text}", file=sys.stderr, flush=True)


def _tell_result(cli: TrainCLI, folder: RunFolder) -> None:
    checkpoints = next(c for c in cli.trainer.callbacks if isinstance(c, RunCheckpoints))
    if checkpoints.best_value is None:
        print(f"{folder.path}: {cli.trainer.global_step} steps done, no validation ran; the last model is in model/")
    else:
        print(
            f"{folder.path}: {cli.trainer.global_step} steps done; best {cli.model.monitor} "
            f"{checkpoints.best_value:.4f} at step {checkpoints.best_step}, in model/"
        )
