"""House rules that a machine can check: sizes, docstrings, safe loading, and that the README's commands exist."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from crossmamba.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "crossmamba"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400
ALLOWED_UNPICKLING = {
    # AVSBench publishes its log-mel as plain pickles, which torch will not load safely; they are read with an Unpickler
    # that resolves three names and nothing else (its own tests feed it hostile ones).
    PACKAGE / "data" / "avsbench" / "logmel_file.py": "pickle.Unpickler",
    # A child process gets its task from its own parent through a pipe; no file is read.
    PACKAGE / "data" / "processes.py": "pickle.load",
}
DOCUMENTED_ROOMS = ("ops", "data", "metrics")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_readable(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines: split it (limit {MAX_LINES})"
    module = tree(path)
    if module.body and path.name != "__main__.py":
        assert ast.get_docstring(module), f"{path.relative_to(ROOT)} needs a docstring that says what it is for"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_checkpoints_are_never_unpickled(path: Path) -> None:
    wrong = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
            if names & {"dill", "joblib", "cloudpickle"}:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: imports a pickle reader")
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name in ("pickle.Unpickler", "pickle.load", "pickle.loads") and ALLOWED_UNPICKLING.get(path) != name:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
        if isinstance(node, ast.Call):
            wrong += _unsafe_call(path, node)
    assert not wrong


def _unsafe_call(path: Path, node: ast.Call) -> list[str]:
    called = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    where = f"{path.relative_to(ROOT)}:{node.lineno}"
    if called == "torch.load" and given.get("weights_only") != "True":
        return [f"{where}: torch.load without weights_only=True"]
    if called in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
        return [f"{where}: numpy.load with allow_pickle"]
    if called in ("yaml.load", "eval", "exec"):
        return [f"{where}: {called}"]
    return []


def test_the_unsafe_load_rule_can_fail() -> None:
    call = ast.parse("torch.load(path, map_location='cpu')", mode="eval").body
    assert isinstance(call, ast.Call)
    assert _unsafe_call(PACKAGE / "x.py", call)


@pytest.mark.parametrize("room", DOCUMENTED_ROOMS)
def test_public_names_have_docstrings(room: str) -> None:
    missing = []
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                missing += [f"{path.relative_to(ROOT)}:{node.lineno}: {name}" for name in _undocumented(node)]
    assert not missing


def _undocumented(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """The public names of a definition that lack a docstring; overrides of known interfaces need none."""
    missing = [] if ast.get_docstring(node) else [node.name]
    if isinstance(node, ast.ClassDef):
        methods = [child for child in node.body if isinstance(child, ast.FunctionDef) and child.name[0] != "_"]
        known = {"forward", "update", "compute", "reset", "backward", "why_not", "saved_elements", "step"}
        methods = [method for method in methods if method.name not in known and not method.decorator_list]
        missing += [f"{node.name}.{method.name}" for method in methods if not ast.get_docstring(method)]
    return missing


def commands(path: Path) -> list[str]:
    """The `crossmamba ...` lines in a document's shell blocks, continuation lines joined."""
    if not path.exists():
        return []
    blocks = re.findall(r"```(?:bash|sh|shell|console)\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.S)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("crossmamba ")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documented_commands_parse(path: Path, parses) -> None:
    for command in commands(path):
        parses(shlex.split(command, comments=True)[1:])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documented_make_targets_and_files_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    wanted = set(re.findall(r"^\s*make ([a-z]+)", text, flags=re.M))
    assert wanted <= targets, f"{path.name} names make targets that do not exist: {wanted - targets}"
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing, f"{path.name} links to files that do not exist: {missing}"


def test_every_verb_is_a_module() -> None:
    assert {file.stem for file in (PACKAGE / "cli").glob("[a-z]*.py")} >= set(VERBS)
