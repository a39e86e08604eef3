"""`crossmamba train`: trains a model into a run folder, or continues one exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crossmamba.errors import CrossmambaError, UsageError

HELP = "train a model, or resume a run exactly"
EXAMPLE = "crossmamba train --config configs/avs/avs_mamba_ms3_pvt_v2_b5_224.yaml --data.root /data/AVSBench"
RAW_ARGUMENTS = True  # LightningCLI parses them
SHORT_HELP = f"""usage: crossmamba train --config FILE --data.root DIR [--run.dir RUN] [--KEY VALUE ...]
       crossmamba train --resume RUN

{HELP[0].upper() + HELP[1:]}. Example:
  {EXAMPLE} --run.dir runs/ms3

  --config FILE            a config, or the name of one that comes with the package (`crossmamba configs ls`)
  --data.root DIR          the data set
  --run.dir RUN            the run folder (default: runs/NAME of the config); an existing one is never overwritten
  --run.overwrite true     unless this asks for it
  --run.checkpoint_every N optimiser steps between writes of last.ckpt
  --resume RUN             continue a stopped run exactly; SIGTERM or Ctrl+C finishes the step and saves
  --seed N                 of weights, order, augmentation and dropout
  --KEY VALUE              any key of the config: --trainer.max_epochs 60 --model.learning_rate 1e-4
                           --data.image_size 512 --model.model_args.scan_orders 4
  --print_config           print the resolved config and end
  --help-all               every option of the trainer"""


def run(argv: Sequence[str]) -> int:
    """Trains. Returns 0, or 128 + signal if the run was stopped by one."""
    if list(argv) in (["--help"], ["-h"]):
        print(SHORT_HELP)
        return 0
    arguments = ["--help" if argument == "--help-all" else argument for argument in with_config_paths(argv)]
    return _runner().train(arguments)


def check_arguments(argv: Sequence[str]) -> None:
    """Parses the arguments and the config they name; raises UsageError if they would not be accepted."""
    _runner().parse(with_config_paths(argv))


def validate_config(path: str | Path) -> str:
    """What is wrong with a config, "" if it is fine. No data are read; a missing `data.root` is no fault."""
    try:
        _runner().parse(["--config", str(path), "--data.root", "."]).build_without_weights()
    except CrossmambaError as error:
        return str(error)
    return ""


def with_config_paths(argv: Sequence[str]) -> list[str]:
    """Replaces the names of shipped configs (`--config avs/demo`) by their paths."""
    from crossmamba.cli.configs import find_config

    arguments = list(argv)
    for position, argument in enumerate(arguments):
        if argument in ("--config", "-c") and position + 1 < len(arguments):
            arguments[position + 1] = str(find_config(arguments[position + 1]))
        elif argument.startswith("--config="):
            arguments[position] = f"--config={find_config(argument.partition('=')[2])}"
    return arguments


def _runner():  # type: ignore[no-untyped-def]
    try:
        from crossmamba.tasks import runner
    except ImportError as error:
        raise UsageError(f"training needs the extra packages: pip install 'crossmamba[train]' ({error})") from error
    return runner
