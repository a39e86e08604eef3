"""A language model as a writer: every prompt ends as a draft, nothing paid for is lost, nothing is asked twice."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from crossmamba.errors import DataError, UsageError
from crossmamba.questions.cache import AnswerCache, answer_key
from crossmamba.questions.chat import ChatError, Reply
from crossmamba.questions.http_chat import HttpChat
from crossmamba.questions.make import asked_rows, make_questions
from crossmamba.questions.masking import Masker
from crossmamba.questions.prompts import BadReply, Prompt, ask, describe_action, parse_pair
from crossmamba.questions.writer import ChatBackend
from tests.questions.fake_endpoint import PAIR, SENTENCE, Handler, completion, endpoint
from tests.questions.toy import NOUNS, ROWS, VERBS

MASKER = Masker(VERBS, NOUNS)
PROMPTS = [row.prompt(MASKER) for row in asked_rows(ROWS, "oracle", MASKER)]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


class Script:
    """A model that answers from a list; exceptions in it are raised."""

    model, concurrency = "script", 1
    params: dict[str, object] = {"t": 1}  # noqa: RUF012

    def __init__(self, *replies: str | Reply | Exception) -> None:
        self.replies = list(replies)
        self.asked: list[list[dict[str, str]]] = []
        self.closed = False

    def complete(self, messages: list[dict[str, str]], *, json_object: bool) -> Reply:
        self.asked.append(messages)
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply if isinstance(reply, Reply) else Reply(reply, 3, 2)

    def close(self) -> None:
        self.closed = True


def http(url: str, **options: Any) -> HttpChat:
    return HttpChat(url, "m", **{"timeout": 5.0, "backoff": 0.01, "retries": 2, **options})


def backend(chat: Any, path: Path | None = None, **options: Any) -> ChatBackend:
    return ChatBackend(chat, MASKER, AnswerCache(path), **options)


def test_rows_that_are_alike_are_asked_about_once_and_a_second_run_asks_nothing(tmp_path: Path) -> None:
    done = []
    with endpoint(lambda handler, number, body: handler.good(body)) as server:
        first = backend(http(server.url), tmp_path / "cache")
        questions = make_questions(ROWS, "oracle", MASKER, backend=first, done=lambda: done.append(1))
        assert len(server.seen) == 8  # four different prompts, two steps
        assert len(done) == 4
        again = backend(http(server.url), tmp_path / "cache")
        assert make_questions(ROWS, "oracle", MASKER, backend=again) == questions
        assert len(server.seen) == 8
    assert {q.source for q in questions} == {"model"}
    assert {q.description for q in questions} == {SENTENCE}
    assert (first.counts.answers, first.counts.tokens_in, first.counts.tokens_out) == (8, 80, 40)
    assert (again.counts.answers, again.counts.cached) == (0, 8)


def test_requests_at_once_stay_below_the_limit() -> None:
    barrier = threading.Barrier(2)

    def behave(handler: Handler, number: int, body: dict) -> None:
        if number < 2:
            barrier.wait(10)  # passes only if two are here at once
        handler.good(body)

    with endpoint(behave) as server:
        backend(http(server.url, concurrency=2)).generate(PROMPTS)
    assert server.most_busy == 2


def test_broken_json_is_asked_for_again_once_then_the_row_gets_a_template(tmp_path: Path) -> None:
    def behave(handler: Handler, number: int, body: dict) -> None:
        text = json.dumps(body)
        if "verb_question" in body["messages"][0]["content"] and "verb: turn on" in text:
            handler.answer(completion('{"verb_question": "What'))
        else:
            handler.good(body)

    with endpoint(behave) as server:
        questions = make_questions(ROWS, "oracle", MASKER, backend=backend(http(server.url), tmp_path / "cache"))
        assert len(server.seen) == 9
        asked = len(server.seen)
        make_questions(ROWS, "oracle", MASKER, backend=backend(http(server.url), tmp_path / "cache"))
        assert len(server.seen) - asked == 2  # of the failed one only its second step, both tries
    fallen = [q for q in questions if q.source == "template_fallback"]
    assert [q.narration_id for q in fallen] == ["P01_01_1", "P01_01_4"]
    assert all("JSON" in q.reason for q in fallen)
    plain = {q.narration_id: q for q in make_questions(ROWS, "oracle", MASKER)}
    assert all(q.verb_question == plain[q.narration_id].verb_question for q in fallen)


def test_an_endpoint_that_never_answers_loses_nothing(tmp_path: Path) -> None:
    def behave(handler: Handler, number: int, body: dict) -> None:
        if number < 2:
            handler.good(body)
        else:
            handler.stall()

    with endpoint(behave) as server:
        chat = http(server.url, timeout=0.2, concurrency=1, patience=4)
        questions = make_questions(ROWS, "oracle", MASKER, backend=backend(chat, tmp_path / "cache"))
        assert len(server.seen) == 6  # two answers, then four time-outs, and nobody asks any more
    assert [q.source for q in questions] == ["model", *["template_fallback"] * 4]
    assert "within 0.2 s" in questions[1].reason
    assert "not asked" in questions[3].reason
    with endpoint(lambda handler, number, body: handler.good(body)) as server:
        questions = make_questions(ROWS, "oracle", MASKER, backend=backend(http(server.url), tmp_path / "cache"))
        assert len(server.seen) == 6  # the first prompt is kept
    assert {q.source for q in questions} == {"model"}


def test_a_wrong_key_ends_at_once() -> None:
    with endpoint(lambda handler, number, body: handler.answer(b"no", 401)) as server:
        drafts = backend(http(server.url, concurrency=1)).generate(PROMPTS)
    assert len(server.seen) == 1
    assert all("401" in draft.reason for draft in drafts)


def test_many_failures_in_a_row_end_the_asking() -> None:
    script = Script(ChatError("no"), ChatError("no"))
    drafts = backend(script, give_up=2).generate(PROMPTS)
    assert len(script.asked) == 2
    assert "2 questions in a row failed" in drafts[2].reason


def test_questions_that_name_their_answer_are_written_again() -> None:
    bad = json.dumps({"verb_question": "How does one get it?", "noun_question": "Which one is it?"})
    script = Script("One holds it.", bad, json.dumps(PAIR))
    draft = backend(script).generate(PROMPTS[:1])[0]
    assert draft.verb_question == PAIR["verb_question"]
    assert "own answer: get" in script.asked[2][-1]["content"]
    script = Script("One holds it.", bad, bad, bad)
    assert backend(script).generate(PROMPTS[:1])[0].verb_question == "How does one get it?"  # masking is left to do it


def test_an_interrupt_keeps_what_was_answered(tmp_path: Path) -> None:
    script = Script(SENTENCE, json.dumps(PAIR), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        backend(script, tmp_path / "cache").generate(PROMPTS)
    assert script.closed
    assert len(AnswerCache(tmp_path / "cache")) == 2


def test_dry_run(tmp_path: Path) -> None:
    writer = backend(Script(SENTENCE, json.dumps(PAIR)), tmp_path / "cache")
    plan = writer.plan(PROMPTS)
    assert (plan.prompts, plan.cached, plan.requests) == (4, 0, 8)
    writer.generate(PROMPTS[:1])
    later = writer.plan(PROMPTS)
    assert (later.cached, later.requests) == (1, 6)
    assert 0 < later.letters < plan.letters
    assert "turn on" in writer.plan(PROMPTS[1:]).example[1]["content"]


def test_prompts_name_words_to_avoid_and_hide_what_may_not_be_known() -> None:
    user = ask(PROMPTS[0], "d")[1]["content"]
    assert "noun: lunch box" in user
    assert "pick up" in user
    assert "narration: pick up lunch box" in describe_action(PROMPTS[0])[1]["content"]
    blind = Prompt(PROMPTS[0].answers, "")
    assert "narration" not in describe_action(blind)[1]["content"]


def test_a_cut_answer_says_what_to_do() -> None:
    thinking = Reply("<think>\nThe narration is about {a box", 3, 2, cut=True)
    drafts = backend(Script(thinking, thinking)).generate(PROMPTS[:1])
    assert "cut at its most tokens" in drafts[0].reason
    assert "--max-tokens" in drafts[0].reason
    drafts = backend(Script(SENTENCE, thinking, thinking)).generate(PROMPTS[:1])
    assert "no JSON object" in drafts[0].reason
    assert "--max-tokens" in drafts[0].reason
    short = backend(Script(SENTENCE, "no", "no")).generate(PROMPTS[:1])
    assert "--max-tokens" not in short[0].reason


def test_thoughts_are_no_part_of_an_answer() -> None:
    pair = "<think>\nWhat about {this}?\n</think>\n" + json.dumps(PAIR)
    script = Script("<think></think>\n" + SENTENCE, pair)
    draft = backend(script).generate(PROMPTS[:1])[0]
    assert (draft.description, draft.verb_question) == (SENTENCE, PAIR["verb_question"])
    assert SENTENCE in script.asked[1][1]["content"]
    assert "think" not in script.asked[1][1]["content"]


@pytest.mark.parametrize(
    "text",
    [
        '{"verb_question": "A b?", "noun_question": "C d?"}',
        'Sure!\n```json\n{"verb_question": "A\\n b?", "noun_question": "C d?",}\n```\nBye',
        '{"verb_question": "A\x00 b?", "noun_question": "C d?", "more": [1,]}',
    ],
)
def test_replies_that_can_be_repaired(text: str) -> None:
    assert parse_pair(text) == ("A b?", "C d?")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "{",
        '{"verb_question": "A"}',
        '{"verb_question": 1, "noun_question": "C"}',
        '{"verb_question": " ", "noun_question": "C"}',
        '{"verb_question": "' + "x" * 400 + '", "noun_question": "C"}',
        "{" * 10_000 + "}",
    ],
)
def test_replies_that_cannot(text: str) -> None:
    with pytest.raises(BadReply):
        parse_pair(text)


def test_a_torn_line_of_the_cache_costs_one_answer(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    cache = AnswerCache(path)
    cache.put("a", "1")
    cache.put("b", "2")
    path.write_bytes(path.read_bytes()[:-5])
    cache = AnswerCache(path)
    assert (cache.get("a"), cache.get("b")) == ("1", None)
    cache.put("c", "3")
    assert (AnswerCache(path).get("a"), AnswerCache(path).get("c"), len(AnswerCache(path))) == ("1", "3", 2)


def test_files_that_are_no_cache(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a,b\nc,d\n", encoding="utf-8")
    with pytest.raises(DataError, match="cache:1"):
        AnswerCache(tmp_path / "cache")
    with pytest.raises(UsageError, match="does not exist"):
        AnswerCache(tmp_path / "no" / "cache")


def test_keys_of_answers() -> None:
    message = [{"role": "user", "content": "x"}]
    keys = {
        answer_key("m", message, {"t": 1}, 0),
        answer_key("n", message, {"t": 1}, 0),
        answer_key("m", message, {"t": 2}, 0),
        answer_key("m", message, {"t": 1}, 1),
        answer_key("m", [{"role": "user", "content": "y"}], {"t": 1}, 0),
    }
    assert len(keys) == 5
    assert answer_key("m", message, {"t": 1}, 0) in keys
