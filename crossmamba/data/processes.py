"""Work spread over processes that know nothing of the caller's script.

`multiprocessing` would either fork, which breaks once torch has started its threads, or import the caller's script
again in each process, which fails in a notebook, in `python -` and in a script without `if __name__ == "__main__":`.
Plain child processes have neither trouble.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from crossmamba.errors import CrossmambaError, DataError

Item = TypeVar("Item")
_REFUSED = 3  # exit status of a child that met an expected error and printed it
_PACKAGE_ROOT = Path(__file__).resolve().parents[3]


def run_all(
    work: Callable[[Item], Any],
    items: Sequence[Item],
    workers: int,
    *,
    label: str,
    unit: str,
    progress: bool = True,
    chunk: int = 1,
) -> None:
    """Does `work` for all items, in this process or in several, with a bar on stderr.

    Args:
        work, workers: as `run_chunks`; what `work` returns does not matter.
        label: beside the bar. unit: what an item is called there. progress: whether to show it.
        chunk: items per task of a process: few for a smooth bar, many so that starting one costs nothing.

    Raises:
        DataError, RuntimeError: see `run_chunks`.
    """
    chunks = [items[first : first + chunk] for first in range(0, len(items), chunk)]
    with tqdm(total=len(items), desc=label, unit=unit, disable=not progress) as bar:
        for done in run_chunks(partial(_each, work), chunks, workers):
            bar.update(done)


def _each(work: Callable[[Item], Any], chunk: Sequence[Item]) -> int:
    for item in chunk:
        work(item)
    return len(chunk)


def run_chunks(work: Callable[[Item], int], chunks: Sequence[Item], workers: int) -> Iterator[int]:
    """What `work` returns for each chunk, as they finish.

    Args:
        work: a function that can be pickled, of a module (or a `functools.partial` of one).
        chunks: its arguments; process w takes every `workers`-th, from w on.
        workers: number of processes; with 1, or for one chunk, everything runs in this one.

    Raises:
        DataError: a process met a bad file or disk, or was killed; the message holds the last line it said.
        RuntimeError: a process failed by a mistake in the program; the message holds all it said.
    """
    if workers == 1 or len(chunks) <= 1:
        yield from map(work, chunks)
        return
    read_end, write_end = os.pipe()  # all children write their counts, a short line each, into one pipe
    children: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as complaints, os.fdopen(read_end) as counts:
        try:
            try:
                for first in range(min(workers, len(chunks))):
                    child = _start(write_end, complaints.fileno())
                    children.append(child)
                    _hand_over(child, pickle.dumps((work, list(chunks[first::workers]))))
            finally:
                os.close(write_end)  # so that the pipe ends when the last child does
            yield from map(int, counts)
            statuses = [child.wait() for child in children]
            if any(statuses):
                complaints.seek(0)
                _raise_failure(next(filter(None, statuses)), complaints.read().decode(errors="replace").strip())
        finally:
            for child in children:
                child.kill()
                child.wait()


def _raise_failure(status: int, said: str) -> None:
    if status == _REFUSED:
        raise DataError(said.splitlines()[-1])
    if status < 0:
        raise DataError(
            f"a rendering process was ended by signal {-status}. If memory ran out, use fewer workers; "
            "calling again continues where it stopped."
        )
    raise RuntimeError(f"a rendering process failed:\n{said}")


def _start(output: int, complaints: int) -> subprocess.Popen[bytes]:
    paths = [str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; from {__name__} import serve; sys.exit(serve())"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=complaints,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def _hand_over(child: subprocess.Popen[bytes], task: bytes) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(task)
        child.stdin.close()
    except BrokenPipeError:  # it died at once; its exit status and last words are read later
        pass


def serve() -> int:
    """The whole life of a child: does the chunks that come pickled from the parent, and prints what each returned."""
    work, chunks = pickle.load(sys.stdin.buffer)
    try:
        for chunk in chunks:
            # One write call: `print` makes two under PYTHONUNBUFFERED, and another child's line could come between.
            os.write(sys.stdout.fileno(), f"{work(chunk)}\n".encode())
    except (CrossmambaError, OSError) as error:
        print(error, file=sys.stderr)
        return _REFUSED
    except KeyboardInterrupt:  # the parent was told too
        return 130
    return 0
