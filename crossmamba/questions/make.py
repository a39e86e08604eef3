"""From annotation rows to questions: by templates, by a language model, or out of a bank; always masked.

| source | made from | may be used for |
|---|---|---|
| generic | nothing: the same pair for every clip | everything; the fair default |
| predicted | classes that a model predicted | everything |
| oracle | the true classes and the narration | training, and results that say "oracle" beside them |

("none" means no questions, so there is nothing to make.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from crossmamba.errors import DataError, UsageError
from crossmamba.questions.masking import Answers, LabelledRow, Masker, enough_left
from crossmamba.questions.predicted import QuestionBank
from crossmamba.questions.prompts import PROMPT_VERSION, Prompt, prompt_of
from crossmamba.questions.records import Maker, Question, QuestionSource, check_source, generic_question
from crossmamba.questions.templates import Hint, template_pair
from crossmamba.questions.writer import Draft, QuestionBackend

__all__ = ["Asked", "asked_rows", "make_questions"]


@dataclass(frozen=True)
class Asked:
    """One row to ask about: its id, the pair that may be known, and the narration where that may be known."""

    narration_id: str
    answers: Answers
    narration: str = ""

    def prompt(self, masker: Masker) -> Prompt:
        """What a language model is given."""
        return prompt_of(self.answers, self.narration, masker.verbs, masker.nouns)


def asked_rows(
    rows: Sequence[LabelledRow],
    source: QuestionSource,
    masker: Masker,
    predicted: Mapping[str, tuple[int, int]] | None = None,
) -> list[Asked]:
    """What may be known of each row: the truth ("oracle") or a prediction ("predicted"), which hides the narration.

    Raises:
        UsageError: a source that is made from nothing, or no predictions. DataError: a row without labels or without a
            prediction, or a class outside its table.
    """
    if source == "oracle":
        return [Asked(row.narration_id, masker.answers(row), row.narration) for row in rows]
    if source != "predicted":
        raise UsageError(f"questions of the source {check_source(source)!r} are not made from a row")
    if predicted is None:
        raise UsageError("questions of the source 'predicted' need the predicted classes of every row")
    missing = [row.narration_id for row in rows if row.narration_id not in predicted]
    if missing:
        raise DataError(f"{len(missing)} of {len(rows)} rows have no predicted classes, such as {missing[0]}")
    ids = [row.narration_id for row in rows]
    return [Asked(name, masker.pair(*predicted[name], where=f"prediction of {name}")) for name in ids]


def make_questions(
    rows: Sequence[LabelledRow],
    source: QuestionSource,
    masker: Masker,
    *,
    seed: int = 0,
    hint: Hint = "category",
    predicted: Mapping[str, tuple[int, int]] | None = None,
    bank: QuestionBank | None = None,
    backend: QuestionBackend | None = None,
    done: Callable[[], None] = lambda: None,
) -> list[Question]:
    """The questions of all rows, in their order.

    Args:
        rows: annotation rows; see `LabelledRow`. source: "generic", "predicted" or "oracle".
        masker: of the class tables. seed: of the choice among templates or bank questions.
        hint: what template questions may tell, see `templates`.
        predicted: (verb, noun) by narration id, for "predicted".
        bank: questions of train rows, for "predicted"; a pair that it lacks gets a template, marked so.
        backend: a language model; a prompt without a usable answer gets a template, marked so.
        done: called after each prompt of the backend.

    Raises:
        UsageError: arguments that do not go together. DataError: see `asked_rows`, and a bank that holds these rows.
    """
    if check_source(source) == "none":
        raise UsageError("the source 'none' means no questions: there is nothing to make")
    if bank is not None and (source != "predicted" or backend is not None):
        raise UsageError("a bank goes with the source 'predicted' and without a language model")
    if source == "generic":
        if backend is not None or predicted is not None:
            raise UsageError("generic questions are made from nothing: no language model, no predictions")
        return [generic_question(row.narration_id) for row in rows]
    asked = asked_rows(rows, source, masker, predicted)
    maker = _Maker(source, masker, seed, hint)
    if backend is not None:
        drafts = backend.generate([row.prompt(masker) for row in asked], done)
        return [maker.written(row, draft, backend.model) for row, draft in zip(asked, drafts, strict=True)]
    if bank is not None:
        bank.check_apart(row.narration_id for row in rows)
        return [maker.banked(row, bank) for row in asked]
    return [maker.template(row) for row in asked]


@dataclass(frozen=True)
class _Maker:
    source: QuestionSource
    masker: Masker
    seed: int
    hint: Hint

    def template(self, row: Asked, maker: Maker = "template", reason: str = "") -> Question:
        pair = template_pair(row.narration_id, row.answers, self.masker, seed=self.seed, hint=self.hint)
        return replace(self._question(row, pair, maker), reason=reason)

    def written(self, row: Asked, draft: Draft, model: str) -> Question:
        if draft.reason:
            return self.template(row, "template_fallback", draft.reason)
        question = self._question(row, (draft.verb_question, draft.noun_question), "model")
        if not (enough_left(question.verb_question_masked) and enough_left(question.noun_question_masked)):
            return self.template(row, "template_fallback", "too little was left after masking")
        return replace(question, description=draft.description, model=model, prompt_version=PROMPT_VERSION)

    def banked(self, row: Asked, bank: QuestionBank) -> Question:
        pair = (row.answers.verb_class, row.answers.noun_class)
        found = bank.pick(row.narration_id, pair, self.seed)
        if found is None:
            return self.template(
                row, "template_fallback", f"the bank has no question of verb {pair[0]}, noun {pair[1]}"
            )
        # The bank's rows were masked with their own words too; both maskings stay.
        question = self._question(row, (found.verb_question_masked, found.noun_question_masked), "bank")
        return replace(question, model=found.model, prompt_version=found.prompt_version)

    def _question(self, row: Asked, pair: tuple[str, str], maker: Maker) -> Question:
        return Question(
            row.narration_id,
            *pair,
            *self.masker.mask(*pair, row.answers),
            question_source=self.source,
            source=maker,
            verb_class=row.answers.verb_class,
            noun_class=row.answers.noun_class,
            leak_flags=self.masker.flags(*pair, row.answers),
        )
