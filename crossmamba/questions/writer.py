"""Pairs of questions written by a language model: asked once a prompt, checked, kept, and never lost.

Each prompt ends as a draft: with two questions, or with the reason why there are none. One prompt's failure leaves the
others alone. Nothing more is asked after a failure that would hit all of them (wrong key, nobody answers), or after
`give_up` prompts in a row without a success; those drafts say "not asked".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Protocol

from crossmamba.questions.cache import AnswerCache, answer_key
from crossmamba.questions.chat import Chat, ChatError, Reply
from crossmamba.questions.masking import Masker
from crossmamba.questions.prompts import (
    BadReply,
    Messages,
    Prompt,
    ask,
    ask_again,
    clean_sentence,
    describe_action,
    parse_pair,
)

__all__ = ["ChatBackend", "Counts", "Draft", "Plan", "QuestionBackend"]

_WRITINGS = 3  # of a pair that names its own answer
_CUT = "; the answer was cut at its most tokens: allow more (--max-tokens), above all if the model thinks first"


@dataclass(frozen=True)
class Draft:
    """Questions of one prompt, not masked yet; `reason` tells why there are none."""

    verb_question: str = ""
    noun_question: str = ""
    description: str = ""
    reason: str = ""


@dataclass
class Counts:
    """What was asked: requests that got an answer, answers taken from the cache, tokens as the server counts them."""

    answers: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True)
class Plan:
    """What a run would ask: different prompts, those that the cache answers, letters of the messages that remain."""

    prompts: int
    cached: int
    letters: int
    example: Messages

    @property
    def requests(self) -> int:
        """At least; questions that name their answer, and broken replies, are asked for again."""
        return 2 * (self.prompts - self.cached)


class QuestionBackend(Protocol):
    """Writes questions. `model` names who did."""

    model: str

    def generate(self, prompts: Sequence[Prompt], done: Callable[[], None] = ...) -> list[Draft]:
        """One draft for each prompt, in their order; `done` is called after each."""


class ChatBackend:
    """A language model as a writer of questions.

    Args:
        chat: the model. masker: finds questions that name their answer. cache: of answers.
        give_up: prompts in a row without success, after which no more is asked.
    """

    def __init__(self, chat: Chat, masker: Masker, cache: AnswerCache, *, give_up: int = 20) -> None:
        self.chat, self.masker, self.cache, self.give_up = chat, masker, cache, give_up
        self.model = chat.model
        self.counts = Counts()
        self._lock = threading.Lock()
        self._failed = 0
        self._over = ""  # why nothing more is asked

    def generate(self, prompts: Sequence[Prompt], done: Callable[[], None] = lambda: None) -> list[Draft]:
        """One draft for each prompt, in their order. On an interrupt, what was answered is in the cache.

        Raises:
            DataError: the cache cannot be written.
        """
        different = list(dict.fromkeys(prompts))
        drafts: dict[Prompt, Draft] = {}
        pool = ThreadPoolExecutor(max_workers=self.chat.concurrency, thread_name_prefix="questions")
        try:
            futures = {pool.submit(self._draft, prompt): prompt for prompt in different}
            for future in as_completed(futures):
                drafts[futures[future]] = future.result()
                done()
        except BaseException:
            self.chat.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return [drafts[prompt] for prompt in prompts]

    def plan(self, prompts: Iterable[Prompt]) -> Plan:
        """What `generate` would ask; asks nothing."""
        different = list(dict.fromkeys(prompts))
        cached = letters = 0
        for prompt in different:
            first = describe_action(prompt)
            sentence = self.cache.get(self._key(first, 0))
            second = ask(prompt, sentence if sentence is not None else " " * 100)
            if sentence is not None and self.cache.get(self._key(second, 0)) is not None:
                cached += 1
            else:
                letters += sum(len(message["content"]) for message in (*first, *second))
        example = ask(different[0], "(the sentence of the first step)") if different else []
        return Plan(len(different), cached, letters, example)

    def _draft(self, prompt: Prompt) -> Draft:
        try:
            draft = self._write(prompt)
        except BadReply as error:
            draft = Draft(reason=str(error))
        except ChatError as error:
            draft = Draft(reason=str(error))
            if error.fatal:
                with self._lock:
                    self._over = self._over or str(error)
        with self._lock:
            self._failed = self._failed + 1 if draft.reason else 0
            if self._failed >= self.give_up and not self._over:
                self._over = f"{self._failed} questions in a row failed; the last: {draft.reason}"
        return draft

    def _write(self, prompt: Prompt) -> Draft:
        sentence = self._answer(describe_action(prompt), 0, pair=False)
        messages = first = ask(prompt, sentence)
        pair = ("", "")
        for attempt in range(_WRITINGS):
            text = self._answer(messages, attempt, pair=True)
            pair = parse_pair(text)
            named = [flag.split(":", 2)[2] for flag in self.masker.flags(*pair, prompt.answers) if ":own:" in flag]
            if not named:
                break
            complaint = f"A question uses a word of its own answer: {', '.join(named)}. Write both again without it."
            messages = ask_again(first, text, complaint)
        return Draft(*pair, description=sentence)

    def _answer(self, messages: Messages, attempt: int, *, pair: bool) -> str:
        """A reply with two questions (`pair`) or the sentence of one, from the cache or from the model.

        What cannot be used is asked for once more.
        """
        key = self._key(messages, attempt)
        stored = self.cache.get(key)
        if stored is not None:
            with self._lock:
                self.counts.cached += 1
            return stored
        reply = self._complete(messages, pair)
        try:
            text = _usable(reply, pair)
        except BadReply:
            again = ask_again(messages, reply.text, "This was not what was asked for.") if pair else messages
            text = _usable(self._complete(again, pair), pair)
        self.cache.put(key, text)
        return text

    def _complete(self, messages: Messages, json_object: bool) -> Reply:
        if self._over:
            raise ChatError(f"not asked: {self._over}")
        reply = self.chat.complete(messages, json_object=json_object)
        with self._lock:
            self.counts.answers += 1
            self.counts.tokens_in += reply.tokens_in
            self.counts.tokens_out += reply.tokens_out
        return reply

    def _key(self, messages: Messages, attempt: int) -> str:
        return answer_key(self.model, messages, self.chat.params, attempt)


def _usable(reply: Reply, pair: bool) -> str:
    """The reply as it is if it holds two questions, or its sentence; BadReply otherwise, which tells of a cut one."""
    try:
        if not pair:
            return clean_sentence(reply.text)
        parse_pair(reply.text)
        return reply.text
    except BadReply as error:
        raise BadReply(f"{error}{_CUT}" if reply.cut else str(error)) from error
