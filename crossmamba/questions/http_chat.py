"""Any endpoint that speaks OpenAI's chat protocol (OpenAI, vLLM, Ollama, llama.cpp, ...), over plain HTTP.

The standard library's client, because a total time limit is wanted: a server that sends a byte now and then keeps
every client waiting whose limit is per read. Here a clock shuts the connection when the request's time is over.

The key is read from an environment variable, sent to this endpoint only (redirections are not followed), and never
written anywhere: messages that quote the server have it blotted out.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from crossmamba.errors import UsageError
from crossmamba.questions.chat import ChatError, Reply
from crossmamba.questions.endpoint import Endpoint

__all__ = ["HttpChat"]

LOG = logging.getLogger(__name__)
_AGAIN = {408, 409, 425, 429, *range(500, 600)}
_WRONG_FOR_ALL = {301, 302, 303, 307, 308, 401, 402, 403, 404, 405}
_LARGEST = 2**20  # bytes of an answer


class HttpChat:
    """A model behind an endpoint.

    Args:
        base_url: such as "https://api.openai.com/v1" or "http://localhost:11434".
        model: the endpoint's name of it.
        api_key_env: environment variable that holds the key; None sends none.
        timeout: seconds of one request, from connecting to the last byte; each of a host's addresses gets them to
            connect.
        retries: after the first try, on 408, 409, 425, 429, 5xx, time-outs and broken connections.
        concurrency: requests at once.
        temperature, max_tokens: of the answers.
        backoff: seconds before the first retry; doubles, at most 60, times a random number from 0.5 to 1. What the
            server asks for (Retry-After) is waited for instead, by all threads, if that is at most `longest_wait`.
        patience: requests in a row without any response (no status line) after which the endpoint counts as dead.

    Raises:
        UsageError: an argument out of range, no http(s) URL, or no key in the variable.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        timeout: float = 60.0,
        retries: int = 6,
        concurrency: int = 4,
        temperature: float = 0.7,
        max_tokens: int = 120,
        backoff: float = 1.0,
        longest_wait: float = 300.0,
        patience: int = 12,
    ) -> None:
        limits = {"timeout": timeout, "concurrency": concurrency, "max_tokens": max_tokens, "patience": patience}
        for name, value in limits.items():
            if not value > 0:
                raise UsageError(f"{name} is {value}; it must be above 0")
        if retries < 0 or backoff < 0:
            raise UsageError(f"retries is {retries} and backoff {backoff}; neither may be below 0")
        if not model:
            raise UsageError("no model named; the endpoint has to know which of its models is meant")
        self._key = _key_of(api_key_env)
        self._endpoint = Endpoint(base_url)
        self.model, self.concurrency = model, concurrency
        self.timeout, self.retries, self.backoff = timeout, retries, backoff
        self.longest_wait, self.patience = longest_wait, patience
        self._options: dict[str, object] = {"temperature": temperature, "max_tokens": max_tokens}
        self._json_mode = True
        self.params: Mapping[str, object] = dict(self._options)
        self.requests = 0
        self._silent, self._told = 0, False  # requests in a row without any response, and whether that was said
        self._not_before = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._open: set[_Call] = set()

    @property
    def private(self) -> bool:
        """Whether nobody on the way can read what is sent: TLS, or this machine."""
        return self._endpoint.private

    def complete(self, messages: list[dict[str, str]], *, json_object: bool) -> Reply:
        """The answer to the messages. Raises ChatError."""
        reason = ""
        failures = 0
        while failures <= self.retries:
            self._pause()
            body = self._body(messages, json_object)
            try:
                status, headers, content = self._post(body)
            except _NoResponse as error:
                reason, wait = str(error), None
                silent = self._count_silence(reason)
                if silent >= self.patience:
                    raise ChatError(
                        f"{self._endpoint} did not answer {silent} requests in a row; the last: {reason}", fatal=True
                    ) from error
            else:
                with self._lock:
                    self._silent = 0
                if status == 200:
                    try:
                        return _reply(content)
                    except ValueError as error:
                        reason, wait = f"the answer of {self._endpoint} cannot be read: {error}", None
                elif status in (400, 422) and self._without(body, content):
                    continue  # the endpoint does not know one of the options: asked again without it, which is no retry
                else:
                    reason = f"{self._endpoint} answered {status}: {self._quote(content)}"
                    if status not in _AGAIN:
                        raise ChatError(reason, fatal=status in _WRONG_FOR_ALL)
                    wait = _retry_after(headers)
                    if wait is not None and wait > self.longest_wait:
                        raise ChatError(
                            f"{reason}; it asks to wait {wait:.0f} s, the limit is {self.longest_wait:.0f} s"
                        )
            failures += 1
            if failures <= self.retries:
                self._rest(wait, failures)
        raise ChatError(f"no answer after {self.retries + 1} tries; the last: {reason}")

    def close(self) -> None:
        """Ends waits and open connections; later requests fail."""
        self._stop.set()
        with self._lock:
            calls = list(self._open)
        for call in calls:
            call.cut()

    def _body(self, messages: list[dict[str, str]], json_object: bool) -> dict[str, Any]:
        with self._lock:
            body: dict[str, Any] = {"model": self.model, "messages": messages, **self._options}
            if json_object and self._json_mode:
                body["response_format"] = {"type": "json_object"}
        return body

    def _without(self, body: Mapping[str, Any], content: bytes) -> bool:
        """Drops an option that the endpoint complains about by name; False if it complains about something else.

        `body` is the request that was refused: another thread may have dropped the option meanwhile.
        """
        complaint = content[:4096].decode("utf-8", "replace")
        with self._lock:
            if "response_format" in complaint and "response_format" in body:
                self._json_mode = False
            elif "max_tokens" in complaint and "max_tokens" in body:
                if "max_tokens" in self._options:
                    self._options["max_completion_tokens"] = self._options.pop("max_tokens")
            elif "temperature" in complaint and "temperature" in body:
                self._options.pop("temperature", None)
            else:
                return False
        return True

    def _pause(self) -> None:
        """Waits while the server has asked for a pause."""
        while (left := self._not_before - time.monotonic()) > 0:
            if self._stop.wait(left):
                break
        if self._stop.is_set():
            raise ChatError("stopped", fatal=True)

    def _rest(self, wait: float | None, failures: int) -> None:
        if wait is None:
            delay = min(60.0, self.backoff * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
            self._stop.wait(delay)
            return
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + wait)

    def _count_silence(self, reason: str) -> int:
        """Requests in a row without any response; says once that there are some, as the whole patience may be long."""
        with self._lock:
            self._silent += 1
            silent, told, self._told = self._silent, self._told, True
        if not told:
            LOG.warning("crossmamba: %s; after %d such requests in a row no more is asked", reason, self.patience)
        return silent

    def _post(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        call = _Call(self._endpoint, self.timeout)
        with self._lock:
            self.requests += 1
            self._open.add(call)
        try:
            return call.run(json.dumps(body).encode(), headers)
        finally:
            with self._lock:
                self._open.discard(call)

    def _quote(self, content: bytes) -> str:
        text = content[:4096].decode("utf-8", "replace")
        text = text.replace(self._key, "[key]") if self._key else text
        return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:200] or "nothing"


class _NoResponse(Exception):
    """A request without a whole response."""


class _Call:
    """One request on a connection of its own, which a clock can cut."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self._connection = endpoint.connect(timeout)
        self._endpoint, self._timeout = endpoint, timeout
        self._socket: socket.socket | None = None
        self._expired = False

    def cut(self, expired: bool = False) -> None:
        """Shuts the connection, whatever its thread waits for."""
        self._expired = self._expired or expired
        if self._socket is not None:
            with contextlib.suppress(OSError, ValueError):  # it may have ended by itself
                # The plain socket's method: that of TLS sockets changes what the thread that reads is using.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def run(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        clock = threading.Timer(self._timeout, self.cut, kwargs={"expired": True})
        clock.daemon = True
        clock.start()
        try:
            self._connection.connect()
            self._socket = self._connection.sock
            if self._expired:
                raise TimeoutError
            self._connection.request(
                "POST", self._endpoint.target, body=body, headers={**headers, **self._endpoint.extra}
            )
            response = self._connection.getresponse()
            content = response.read(_LARGEST + 1)
            if response.length and len(content) <= _LARGEST:
                raise http.client.IncompleteRead(content, response.length)
            if self._expired:
                raise TimeoutError
            return response.status, dict(response.headers.items()), content
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # A socket that the clock shuts can end in any of these.
            if self._expired or isinstance(error, TimeoutError):
                raise _NoResponse(f"no answer from {self._endpoint} within {self._timeout:g} s") from error
            raise _NoResponse(f"the connection to {self._endpoint} failed: {error or type(error).__name__}") from error
        finally:
            clock.cancel()
            self._connection.close()


def _key_of(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(f"the environment variable {variable} holds no key; set it, or name another")
    if not key.isprintable() or not key.isascii() or " " in key:
        raise UsageError(f"the environment variable {variable} holds blanks or signs that no key has")
    return key


def _reply(content: bytes) -> Reply:
    """The completion in a response's body. Raises ValueError, with what is wrong."""
    if len(content) > _LARGEST:
        raise ValueError(f"more than {_LARGEST} bytes")
    try:
        record = json.loads(content)
        choice = record["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, RecursionError) as error:
        raise ValueError("broken JSON") from error
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("no choices[0].message.content") from error
    cut = choice.get("finish_reason") == "length"
    if text is None and cut:  # all tokens went into thoughts
        text = ""
    if not isinstance(text, str):
        raise ValueError("choices[0].message.content is no text")
    usage = record.get("usage")
    counts = [
        (usage or {}).get(name) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")
    ]
    tokens = [count if isinstance(count, int) and count > 0 else 0 for count in counts]
    return Reply(text, tokens[0], tokens[1], cut)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: a number, or a date."""
    value = next((text for name, text in headers.items() if name.lower() == "retry-after"), "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds and abs(seconds) != float("inf") else None
