"""`crossmamba configs ls|cp|validate`: the training configurations that come with the package."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from crossmamba.errors import UsageError

HELP = "list, copy and check training configurations"
EXAMPLE = """crossmamba configs ls
  crossmamba configs cp avs/demo my_run.yaml
  crossmamba configs validate my_run.yaml"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the three actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ls|cp|validate")
    listing = actions.add_parser("ls", help="list the configurations", epilog="example: crossmamba configs ls")
    listing.add_argument("--json", action="store_true", help="print as JSON")
    copy = actions.add_parser(
        "cp", help="copy one, to change it", epilog="example: crossmamba configs cp avs/demo my_run.yaml"
    )
    copy.add_argument("name", help="a name that `ls` shows")
    copy.add_argument("out", help="the file to write")
    copy.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    validate = actions.add_parser(
        "validate",
        help="check every key and type without training",
        epilog="example: crossmamba configs validate my_run.yaml",
    )
    validate.add_argument("names", nargs="*", help="files, or names that `ls` shows (default: all shipped ones)")
    validate.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action."""
    return {"ls": _list, "cp": _copy, "validate": _validate}[args.action](args)


def config_root() -> Path:
    """The folder of the shipped configurations: inside the installed package, or `configs/` of the repository."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise UsageError(f"the shipped configurations are missing from {package}; reinstall crossmamba")


def config_names() -> list[str]:
    """Names of the shipped configurations, such as `avs/demo`."""
    root = config_root()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find_config(name: str) -> Path:
    """The file of a shipped configuration (`avs/demo`), or a path to any other.

    Raises:
        UsageError: there is neither.
    """
    if name in config_names():
        return config_root() / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    raise UsageError(f"no configuration {name!r}; shipped ones: {', '.join(config_names())}")


def _describe(path: Path) -> str:
    """The first comment line of a configuration, which says what it is for."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def _list(args: argparse.Namespace) -> int:
    rows = [
        {"name": name, "about": _describe(find_config(name)), "path": str(find_config(name))} for name in config_names()
    ]
    if args.json:
        print(json.dumps(rows))
        return 0
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        print(f"{row['name']:{width}s}  {row['about']}")
    print("\nCopy one with `crossmamba configs cp NAME my_run.yaml`, then `crossmamba train --config my_run.yaml`.")
    return 0


def _copy(args: argparse.Namespace) -> int:
    source, target = find_config(args.name), Path(args.out)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not args.overwrite:
        raise UsageError(f"{target} exists; give another name, or --overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    print(f"{target}\nnext: crossmamba train --config {target}")
    return 0


def _validate(args: argparse.Namespace) -> int:
    from crossmamba.cli.train import validate_config

    results = [(name, validate_config(find_config(name))) for name in args.names or config_names()]
    if args.json:
        print(json.dumps([{"name": name, "ok": not problem, "problem": problem} for name, problem in results]))
    else:
        for name, problem in results:
            print(f"{name}: {problem or 'ok'}")
    return 2 if any(problem for _, problem in results) else 0
