"""What a study is made of: rows, their configs, what comes before them, and how its table is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from crossmamba.errors import UsageError

BASES = MappingProxyType(
    {
        "small": {
            "av_mamba": "avqa/demo_av_mamba",
            "shmamba": "avqa/demo_shmamba",
            "avst": "avqa/demo_avst",
            "action": "action/demo_kitchen_tokens",
            "anticipation": "action/demo_kitchen_anticipation",
        },
        "full": {
            "av_mamba": "avqa/av_mamba_music_avqa",
            "shmamba": "avqa/shmamba_music_avqa",
            "avst": "avqa/avst_music_avqa",
            "action": "action/recognition_avion_l",
            "anticipation": "action/anticipation_avion_l",
        },
    }
)
"""The config of each model at each scale."""


@dataclass(frozen=True)
class Row:
    """One line of a study: a training per seed.

    Attributes:
        name: of the line.
        model: a key of `BASES`.
        overrides: arguments of `crossmamba train` after the base config's.
        perturbations: with which the test split is scored; each is a line of the result. The first is the row's own.
        published: the paper's scores on MUSIC-AVQA by column, to be shown beside; another data set, so not comparable.
    """

    name: str
    model: str
    overrides: tuple[str, ...] = ()
    perturbations: tuple[str, ...] = ("none",)
    published: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Preparation:
    """What a study makes before its rows, once a seed. In all texts `{root}` is the data set, `{seed}` the seed and
    `{prepared}` the seed's folder.

    Attributes:
        steps: commands of `crossmamba`, in order; a step that is done is not done again, a training is resumed.
        train, evaluate: further arguments of every row's `crossmamba train` and `crossmamba eval`.
        note: what the table says of it.
    """

    steps: tuple[tuple[str, ...], ...]
    train: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Study:
    """A table: `title` stands over it, `about` says what it asks.

    Attributes:
        headline: the column that is told when a training ends. unit: what one sample is called.
        measure: what the columns are.
        prepare: what comes first, by scale; at a scale that is not named nothing does.
        crossfit: the same by scale, made for a number of folds: what is predicted of train rows is predicted by models
            that did not learn from them.
    """

    name: str
    title: str
    about: str
    rows: tuple[Row, ...]
    headline: str = "All"
    unit: str = "question"
    measure: str = "Per cent of the questions"
    prepare: tuple[tuple[str, Preparation], ...] = ()
    crossfit: tuple[tuple[str, Callable[[int], Preparation]], ...] = ()

    def preparation(self, scale: str, folds: int = 0) -> Preparation:
        """What comes first at a scale; an empty one if nothing does.

        Args:
            folds: of cross-fitting; 0 without.

        Raises:
            UsageError: fewer than 2 folds, or a study that predicts nothing of train rows.
        """
        if folds == 0:
            return dict(self.prepare).get(scale, Preparation(()))
        if folds < 2:
            raise UsageError(f"--folds {folds}: give at least 2, or 0 for no cross-fitting")
        if (made := dict(self.crossfit).get(scale)) is None:
            raise UsageError(
                f"--folds: study {self.name} at scale {scale} makes no questions that could be cross-fitted"
            )
        return made(folds)

    def chosen(self, names: list[str] | None) -> tuple[Row, ...]:
        """The rows of these names, all if None.

        Raises:
            UsageError: a name that no row has.
        """
        known = {row.name: row for row in self.rows}
        if unknown := [name for name in names or () if name not in known]:
            raise UsageError(f"study {self.name} has no row {unknown[0]!r}; it has: {', '.join(map(repr, known))}")
        return tuple(row for row in self.rows if names is None or row.name in names)


def model_args(**values: object) -> tuple[str, ...]:
    """Arguments of the model's builder as arguments of the command."""
    return tuple(
        part
        for key, value in values.items()
        for part in (f"--model.model_args.{key}", str(value).lower() if isinstance(value, bool) else str(value))
    )
