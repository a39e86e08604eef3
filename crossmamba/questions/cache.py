"""Answers of language models, kept: one JSON line each, appended the moment it comes, so nothing paid for is lost."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossmamba.errors import DataError, UsageError
from crossmamba.questions.prompts import PROMPT_VERSION

__all__ = ["AnswerCache", "answer_key"]

_PREFIX = b'{"key": '


def answer_key(model: str, messages: Sequence[Mapping[str, str]], params: Mapping[str, object], attempt: int) -> str:
    """SHA-256 of all that an answer depends on: model, prompt version, what was asked, how, and which attempt it is."""
    content = [model, PROMPT_VERSION, list(map(dict, messages)), dict(params), attempt]
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class AnswerCache:
    """Texts by key, in memory and in a file.

    A line that a crash tore off is ignored, and the next answer starts a line of its own. Every answer is one write in
    append mode, so two commands may share a file.

    Args:
        path: of the file; made if it is not there. None: in memory only.

    Raises:
        UsageError: its folder does not exist. DataError: it is not such a file.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self._answers: dict[str, str] = {}
        self._lock = threading.Lock()
        self._torn = False
        if self.path is None:
            return
        if not self.path.parent.is_dir():
            raise UsageError(f"{self.path}: the folder {self.path.parent} does not exist")
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error})") from error
        self._torn = bool(content) and not content.endswith(b"\n")
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.strip():
                self._take(line, number)

    def _take(self, line: bytes, number: int) -> None:
        if not line.startswith(_PREFIX) and not _PREFIX.startswith(line):
            raise DataError(
                f"{self.path}:{number}: no stored answer; the file is not a cache: name another with --cache"
            )
        try:
            record = json.loads(line)
            key, text = record["key"], record["text"]
        except (ValueError, KeyError, TypeError):
            return  # torn off by a crash
        if isinstance(key, str) and isinstance(text, str):
            self._answers[key] = text

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> str | None:
        """The stored answer, if there is one."""
        with self._lock:
            return self._answers.get(key)

    def put(self, key: str, text: str) -> None:
        """Stores an answer.

        Raises:
            DataError: the file cannot be written.
        """
        line = json.dumps({"key": key, "text": text}, ensure_ascii=True).encode() + b"\n"
        with self._lock:
            if self.path is not None:
                try:
                    file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                    try:
                        whole = b"\n" + line if self._torn else line
                        if os.write(file, whole) != len(whole):
                            raise OSError("the disk took only a part of the line")
                    finally:
                        os.close(file)
                except OSError as error:
                    self._torn = True
                    raise DataError(f"{self.path}: the answer cannot be stored ({error})") from error
                self._torn = False
            self._answers[key] = text
