"""The client against a real server that answers, stalls, asks to wait, sends rubbish and hangs up."""

from __future__ import annotations

import email.utils
import http.server
import json
import shutil
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from crossmamba.errors import UsageError
from crossmamba.questions.chat import ChatError
from crossmamba.questions.endpoint import Endpoint
from crossmamba.questions.http_chat import HttpChat
from tests.questions.fake_endpoint import SENTENCE, Handler, completion, endpoint

MESSAGES = [{"role": "system", "content": "rewrite"}, {"role": "user", "content": "narration: take plate"}]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def chat(url: str, **options: Any) -> HttpChat:
    return HttpChat(url, "m", **{"timeout": 5.0, "backoff": 0.01, **options})


def test_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    with endpoint(lambda handler, number, body: handler.good(body)) as server:
        reply = chat(server.url, api_key_env="SOME_KEY", max_tokens=77).complete(MESSAGES, json_object=True)
    _, path, headers, body = server.seen[0]
    assert (reply.text, reply.tokens_in, reply.tokens_out) == (SENTENCE, 10, 5)
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sk-secret"
    assert body["messages"] == MESSAGES
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.7, 77)
    assert body["response_format"] == {"type": "json_object"}


def test_429_then_200() -> None:
    def behave(handler: Handler, number: int, body: dict) -> None:
        if number == 0:
            handler.answer(b"slow down", 429, Retry_After="0.4")
        else:
            handler.good(body)

    with endpoint(behave) as server:
        assert chat(server.url).complete(MESSAGES, json_object=False).text == SENTENCE
    assert server.seen[1][0] - server.seen[0][0] >= 0.39  # not before the server's time, though backoff is 0.01 s


def test_all_threads_wait_when_the_server_asks_one() -> None:
    def behave(handler: Handler, number: int, body: dict) -> None:
        if number == 0:
            handler.answer(b"", 429, Retry_After="0.5")
        else:
            handler.good(body)

    with endpoint(behave) as server:
        client = chat(server.url)
        first = threading.Thread(target=client.complete, args=(MESSAGES,), kwargs={"json_object": False})
        first.start()
        while not server.seen or client._not_before == 0:
            time.sleep(0.01)
        client.complete(MESSAGES, json_object=False)
        first.join(5)
    assert all(seen[0] - server.seen[0][0] >= 0.49 for seen in server.seen[1:])


def test_a_date_to_wait_for_and_one_too_far() -> None:
    def behave(handler: Handler, number: int, body: dict) -> None:
        away = 1 if number == 0 else 1000
        handler.answer(b"", 503, Retry_After=email.utils.formatdate(time.time() + away, usegmt=True))

    with endpoint(behave) as server, pytest.raises(ChatError, match=r"503.*wait \d+ s, the limit is 300 s"):
        chat(server.url).complete(MESSAGES, json_object=False)
    assert len(server.seen) == 2


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503])
def test_faults_that_pass(status: int) -> None:
    def behave(handler: Handler, number: int, body: dict) -> None:
        if number < 2:
            handler.answer(b"", status)
        else:
            handler.good(body)

    with endpoint(behave) as server:
        assert chat(server.url).complete(MESSAGES, json_object=False).text == SENTENCE
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"choices": [', "broken JSON"),
        (b"<html>", "broken JSON"),
        (b"\xff\xfe", "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b"{}", "no choices"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": [{"message": {"content": null}}]}', "no text"),
        (b'"' + b"x" * 2**20 + b'"', "bytes"),
    ],
    ids=["torn", "html", "bytes", "deep", "empty", "none", "null", "large"],
)
def test_broken_answers_are_tried_again_and_named(content: bytes, reason: str) -> None:
    with (
        endpoint(lambda handler, number, body: handler.answer(content)) as server,
        pytest.raises(ChatError, match=rf"after 3 tries.*{reason}") as caught,
    ):
        chat(server.url, retries=2).complete(MESSAGES, json_object=False)
    assert len(server.seen) == 3
    assert not caught.value.fatal


@pytest.mark.parametrize("way", ["stall", "trickle"])
def test_an_endpoint_that_never_answers_ends_by_the_clock(way: str) -> None:
    with endpoint(lambda handler, number, body: getattr(handler, way)()) as server:
        start = time.monotonic()
        with pytest.raises(ChatError, match=r"127\.0\.0\.1:\d+/v1/chat/completions within 0\.3 s"):
            chat(server.url, timeout=0.3, retries=2).complete(MESSAGES, json_object=False)
        assert 0.8 < time.monotonic() - start < 3
        assert len(server.seen) == 3


def test_after_enough_silence_the_endpoint_counts_as_dead(caplog: pytest.LogCaptureFixture) -> None:
    with endpoint(lambda handler, number, body: handler.stall()) as server:
        with pytest.raises(ChatError, match="did not answer 3 requests in a row") as caught:
            chat(server.url, timeout=0.2, patience=3).complete(MESSAGES, json_object=False)
        assert caught.value.fatal
        assert len(server.seen) == 3
    (said,) = caplog.messages  # once, and not only at the end
    assert f"no answer from {server.url}/chat/completions within 0.2 s; after 3 such requests in a row" in said


def test_an_answer_that_was_all_thoughts_is_cut_and_not_asked_for_again() -> None:
    choice = {"message": {"role": "assistant", "content": None, "reasoning": "Hm."}, "finish_reason": "length"}
    content = json.dumps({"choices": [choice], "usage": {"completion_tokens": 120}}).encode()
    with endpoint(lambda handler, number, body: handler.answer(content)) as server:
        reply = chat(server.url).complete(MESSAGES, json_object=False)
        assert len(server.seen) == 1
    assert (reply.text, reply.cut, reply.tokens_out) == ("", True, 120)


def test_a_dropped_connection_is_tried_again() -> None:
    def behave(handler: Handler, number: int, body: dict) -> None:
        if number == 0:
            handler.drop()
        else:
            handler.good(body)

    with endpoint(behave) as server:
        assert chat(server.url).complete(MESSAGES, json_object=False).text == SENTENCE
    assert len(server.seen) == 2


def test_nobody_listens() -> None:
    with endpoint(lambda handler, number, body: handler.good(body)) as server:
        url = server.url
    with pytest.raises(ChatError, match=r"connection to .* failed"):
        chat(url, retries=1).complete(MESSAGES, json_object=False)


@pytest.mark.parametrize(("status", "fatal"), [(401, True), (403, True), (404, True), (307, True), (400, False)])
def test_faults_that_stay_are_not_tried_again(status: int, fatal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    refused = b"key sk-secret is\nwrong\x1b[31m"
    with (
        endpoint(lambda handler, number, body: handler.answer(refused, status, Location="/other")) as server,
        pytest.raises(ChatError) as caught,
    ):
        chat(server.url, api_key_env="SOME_KEY").complete(MESSAGES, json_object=False)
    assert len(server.seen) == 1  # redirections are not followed either
    assert caught.value.fatal is fatal
    assert f"answered {status}: key [key] is wrong" in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("option", ["response_format", "max_tokens", "temperature"])
def test_options_that_an_endpoint_does_not_know_are_left_out(option: str) -> None:
    def behave(handler: Handler, number: int, body: dict) -> None:
        if option in body:
            handler.answer(b"Unsupported parameter: " + option.encode(), 400)
        else:
            handler.good(body)

    with endpoint(behave) as server:
        client = chat(server.url, retries=0)
        assert client.complete(MESSAGES, json_object=True).text == SENTENCE
        client.complete(MESSAGES, json_object=True)
    assert len(server.seen) == 3  # learned once
    assert ("max_completion_tokens" in server.seen[-1][3]) == (option == "max_tokens")


def test_an_option_that_was_left_out_already_ends() -> None:
    complaint = b"response_format, max_tokens and temperature are wrong"
    with (
        endpoint(lambda handler, number, body: handler.answer(complaint, 400)) as server,
        pytest.raises(ChatError, match="400"),
    ):
        chat(server.url).complete(MESSAGES, json_object=True)
    assert len(server.seen) == 4


def test_closing_ends_a_request_under_way() -> None:
    with endpoint(lambda handler, number, body: handler.stall()) as server:
        client = chat(server.url, timeout=30)
        threading.Timer(0.3, client.close).start()
        start = time.monotonic()
        with pytest.raises(ChatError, match="stopped"):
            client.complete(MESSAGES, json_object=False)
        assert time.monotonic() - start < 5


def test_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, self.headers["Proxy-Authorization"]))
            content = completion("by proxy")
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    monkeypatch.setenv("http_proxy", f"http://me:word@127.0.0.1:{server.server_address[1]}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert chat("http://models.invalid:81/api").complete(MESSAGES, json_object=False).text == "by proxy"
    thread.join(5)
    server.server_close()
    assert asked == [("http://models.invalid:81/api/chat/completions", "Basic bWU6d29yZA==")]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1 in one file."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = subprocess.run(
        [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *names], capture_output=True
    )
    if made.returncode:
        pytest.skip("this openssl makes no certificate")
    (folder / "both").write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return folder / "both"


def test_tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def behave(handler: Handler, number: int, body: dict) -> None:
        if number == 0:
            handler.good(body)
        else:
            handler.stall()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with endpoint(behave, context) as server:
        url = server.url.replace("http:", "https:")
        with pytest.raises(ChatError, match="certificate"):  # unknown to this machine
            chat(url, retries=0).complete(MESSAGES, json_object=False)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        client = chat(url, timeout=0.5, retries=0)
        assert client.private
        assert client.complete(MESSAGES, json_object=False).text == SENTENCE
        with pytest.raises(ChatError, match=r"within 0\.5 s"):
            client.complete(MESSAGES, json_object=False)
    assert len(server.seen) == 2


def test_who_can_read_along() -> None:
    assert chat("http://127.0.0.1:1").private
    assert not chat("http://models.invalid").private


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("http://h", "http://h/v1/chat/completions"),
        ("https://h:8/v1/", "https://h:8/v1/chat/completions"),
        ("http://h/v1/chat/completions", "http://h/v1/chat/completions"),
    ],
)
def test_urls(url: str, full: str) -> None:
    assert str(Endpoint(url)) == full


@pytest.mark.parametrize("url", ["h", "ftp://h", "http://", "http://h:x", "http://me:word@h", "http://h?key=1"])
def test_wrong_urls(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Endpoint(url)
    assert "word" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"retries": -1}, {"concurrency": 0}, {"max_tokens": 0}, {"timeout": float("nan")}]
)
def test_wrong_options(options: dict) -> None:
    with pytest.raises(UsageError):
        chat("http://h", **options)


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "a\r\nX: b")
    with pytest.raises(UsageError, match="SOME_KEY") as caught:
        chat("http://h", api_key_env="SOME_KEY")
    assert "X: b" not in str(caught.value)
    with pytest.raises(UsageError, match="NO_SUCH_KEY"):
        chat("http://h", api_key_env="NO_SUCH_KEY")
