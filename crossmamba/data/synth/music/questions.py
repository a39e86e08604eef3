"""Which questions are asked: as many of each template, and no answer more often than its cap.

From all questions that have a clear answer, `choose` takes one after the other for each template: the answer that was
taken least, of this answer the values (`violin`, `left`, ...) where it lags most behind the others, and of these the
scene that has fewest questions of this template. What is left over is cut back to the cap, so that knowing the
template, or the template and its values, tells little of the answer.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from crossmamba.data.qa.templates import TEMPLATES
from crossmamba.data.synth.music.answers import ANSWERERS
from crossmamba.data.synth.music.candidates import candidates
from crossmamba.data.synth.music.scene import Concert

CAPS = {"yes_no": 0.5, "room": 0.5, "count": 0.4, "place": 0.4, "place_or_together": 0.34, "instrument": 0.2}
"""Largest share of one answer among the questions of a template, by class of answers, give or take one question."""


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        scene: position in the list of scenes.
        template: position in `qa.templates.TEMPLATES`.
        values: one a placeholder.
        answer: a word.
    """

    scene: int
    template: int
    values: tuple[str, ...]
    answer: str

    @property
    def key(self) -> tuple[int, int, tuple[str, ...]]:
        """What no two questions share."""
        return self.scene, self.template, self.values


def all_questions(concerts: Sequence[Concert], template: int) -> list[Question]:
    """Every question of a template that has a clear answer."""
    rule = ANSWERERS[template]
    found = []
    for scene, concert in enumerate(concerts):
        for values in candidates(concert, template):
            answer = rule(concert, values)
            if answer is not None:
                found.append(Question(scene, template, values, answer))
    return found


def choose(
    concerts: Sequence[Concert],
    number: int,
    rng: np.random.Generator,
    taken: set[tuple[int, int, tuple[str, ...]]] | None = None,
) -> list[Question]:
    """About `number` questions, in the order of the scenes: fewer where templates lack clear or balanced questions.

    Args:
        concerts: the scenes.
        number: wanted; each template gets a 33rd.
        rng: breaks ties.
        taken: keys of questions not to ask; those chosen are added.
    """
    taken = set() if taken is None else taken
    chosen: list[Question] = []
    quota = ceil(number / len(TEMPLATES))
    pools = [[q for q in all_questions(concerts, k) if q.key not in taken] for k in range(len(TEMPLATES))]
    for template, pool in enumerate(pools):
        chosen += _balanced(pool, quota, CAPS[TEMPLATES[template].answers], rng)
    if len(chosen) > number:
        chosen = [chosen[int(k)] for k in np.sort(rng.permutation(len(chosen))[:number])]
    taken |= {q.key for q in chosen}
    order = rng.permutation(len(chosen))
    return sorted((chosen[int(k)] for k in order), key=lambda q: q.scene)


def _balanced(pool: list[Question], quota: int, cap: float, rng: np.random.Generator) -> list[Question]:
    """Up to `quota` questions of one template, no answer above the cap."""
    buckets: dict[str, dict[tuple[str, ...], list[Question]]] = defaultdict(lambda: defaultdict(list))
    for k in rng.permutation(len(pool)):
        question = pool[int(k)]
        buckets[question.answer][question.values].append(question)
    answers = [str(a) for a in rng.permutation(sorted(buckets))]
    counts: Counter[str] = Counter()
    of_values: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    own: Counter[int] = Counter()
    chosen: list[Question] = []
    while len(chosen) < quota:
        open_answers = [a for a in answers if buckets[a] and counts[a] < ceil(cap * quota)]
        if not open_answers:
            break
        answer = min(open_answers, key=lambda a: counts[a])
        by_values = buckets[answer]
        values = min(by_values, key=lambda v: _lead(of_values[v], answer))
        bucket = by_values[values]
        best = min(range(len(bucket)), key=[own[q.scene] for q in bucket].__getitem__)
        question = bucket.pop(best)
        if not bucket:
            del by_values[values]
        chosen.append(question)
        counts[answer] += 1
        of_values[values][answer] += 1
        own[question.scene] += 1
    return _cut(chosen, cap)


def _lead(counts: Counter[str], answer: str) -> tuple[int, int]:
    """How far an answer would lead the others with the same values, then how often the values were used."""
    most = max((n for a, n in counts.items() if a != answer), default=0)
    return counts[answer] + 1 - most, sum(counts.values())


def _cut(chosen: list[Question], cap: float) -> list[Question]:
    """Drops the last ones of answers above the cap."""
    while True:
        counts = Counter(q.answer for q in chosen)
        over = [a for a, n in counts.items() if n > cap * len(chosen) + 1]
        if not over or len(counts) * cap < 1:  # too few different answers to reach the cap: nothing would be left
            return chosen
        last = max(k for k, q in enumerate(chosen) if q.answer == over[0])
        chosen = chosen[:last] + chosen[last + 1 :]


def row(question: Question, video_id: str, question_id: int) -> dict[str, Any]:
    """A row in the official layout: seven keys, JSON inside strings, and the key that is misspelt there too."""
    template = TEMPLATES[question.template]
    return {
        "video_id": video_id,
        "question_id": question_id,
        "type": json.dumps([template.modality, template.kind]),
        "question_content": template.text,
        "templ_values": json.dumps(list(question.values)),
        "question_deleted": 0,
        "anser": question.answer,
    }
