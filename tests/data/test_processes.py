"""Work spread over processes: no count is lost, a killed process and a mistake are told apart."""

from __future__ import annotations

import signal
from functools import partial

import pytest

from crossmamba.data.processes import run_chunks
from crossmamba.errors import DataError


def test_counts_of_many_processes_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    assert sum(run_chunks(len, ["x" * 11] * 200_000, 4)) == 2_200_000


def test_killed_process_is_told_and_ends_the_work() -> None:
    with pytest.raises(DataError, match="signal 9"):
        list(run_chunks(signal.raise_signal, [signal.SIGKILL] * 2, 2))  # type: ignore[arg-type]


def test_mistake_in_a_process_is_no_data_error() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(run_chunks(partial(divmod, 1), [0, 0], 2))
