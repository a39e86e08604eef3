"""Imports point one way (docs/ARCHITECTURE.md). Read from the source: an import inside a function counts too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "crossmamba"
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]

# What each room may import of the others. `errors` may be imported by all.
ALLOWED = {
    "__main__": {"cli"},
    "errors": set(),
    "ops": set(),
    "benchmarking": {"ops"},
    "metrics": set(),
    "data": set(),
    "encoders": set(),
    "blocks": {"ops"},
    "models": {"ops", "blocks", "encoders"},
    "questions": {"data"},
    "extract": {"data", "encoders", "questions"},
    "overlay": {"data"},
    "predict": {"models", "data", "encoders", "extract", "overlay", "questions"},
    "tasks": {"ops", "blocks", "encoders", "models", "data", "metrics", "questions"},
    "studies": {"tasks", "metrics", "questions"},
    "report": set(),
    "demo": {"studies", "data", "metrics", "encoders", "models", "tasks", "extract", "predict", "report", "questions"},
    "cli": {
        "extract",
        "ops",
        "benchmarking",
        "models",
        "data",
        "metrics",
        "tasks",
        "studies",
        "predict",
        "overlay",
        "questions",
        "report",
        "demo",
    },
}
# Outside packages that only some rooms may import.
OUTSIDE = {
    "lightning": {"tasks", "cli", "demo"},
    "pytorch_lightning": set(),
    "jsonargparse": {"tasks", "cli", "demo"},
    "transformers": {"encoders", "questions"},
    "matplotlib": {"report", "overlay", "predict"},
    "av": {"data", "cli"},
    "torchvision": set(),
    "torchaudio": set(),
    "torchcodec": set(),
    "timm": set(),
    "librosa": set(),
    "cv2": set(),
    "scipy": set(),
}


def room_of(path: Path) -> str:
    """The first part of a file's path in the package: a folder, or a module beside `__init__.py`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports, relative imports resolved."""
    here = ["crossmamba", *path.relative_to(PACKAGE).with_suffix("").parts]
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def wrong_imports(path: Path) -> list[str]:
    """A line for each import of a file that the tables above do not allow."""
    room, wrong = room_of(path), []
    for line, name in imports_of(path):
        top, _, rest = name.partition(".")
        if top == "crossmamba":
            target = rest.split(".")[0]
            allowed = ALLOWED[room] | {room, "errors", "__version__", ""}  # "": `import crossmamba`, for its version
            if target not in allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} must not import {target}")
        elif room not in OUTSIDE.get(top, {room}):
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} must not import {top}")
    return wrong


@pytest.mark.parametrize(
    "path", [file for file in FILES if file.name != "__init__.py" or file.parent != PACKAGE], ids=str
)
def test_arrows_point_one_way(path: Path) -> None:
    assert room_of(path) in ALLOWED, f"new room {room_of(path)}: add it to ALLOWED and to docs/ARCHITECTURE.md"
    assert not wrong_imports(path)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("data/x.py", "from crossmamba.models import create_model"),
        ("blocks/x.py", "def f():\n    import crossmamba.models.hub"),
        ("models/x.py", "from crossmamba import tasks"),
        ("metrics/x.py", "from ..ops import route_scan"),
        ("predict/x.py", "import lightning"),
    ],
)
def test_an_arrow_the_wrong_way_is_found(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: source)
    assert wrong_imports(PACKAGE / name)


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in a fresh interpreter after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.split(".")[0] for name in run.stdout.split()}


def test_importing_the_package_is_light() -> None:
    heavy = {"torch", "numpy", "lightning", "transformers", "matplotlib"}
    assert not heavy & loaded_by("import crossmamba, crossmamba.errors, crossmamba.cli")


def test_predicting_needs_no_training_extra() -> None:
    assert not {"lightning", "jsonargparse", "tensorboard", "matplotlib"} & loaded_by("import crossmamba.predict")
