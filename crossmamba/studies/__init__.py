"""`crossmamba study`: tables of trainings, as data, and what runs them.

rows.py         what a study is made of; avqa.py, action.py: the studies
run.py          trains and scores every row with every seed, in processes of its own; goes on where it was stopped
result.py       the table: means and spreads over the seeds; ceilings.py: what could be had with less, beside it

To add a study: a `Study` in `STUDIES`. A row is a base config (small, for the synthetic world, or full, the paper's
size) with overrides, and what its test score is taken with.
"""

from __future__ import annotations

from types import MappingProxyType

from crossmamba.errors import UsageError
from crossmamba.studies.action import ACTION, ACTION_ANTICIPATION
from crossmamba.studies.avqa import AV_MAMBA_TABLE_2, AVQA, SHMAMBA_ABLATIONS
from crossmamba.studies.rows import Study

__all__ = ["STUDIES", "study_of"]

STUDIES = MappingProxyType(
    {study.name: study for study in (AV_MAMBA_TABLE_2, SHMAMBA_ABLATIONS, AVQA, ACTION, ACTION_ANTICIPATION)}
)


def study_of(name: str) -> Study:
    """The study of that name; UsageError with the names there are if there is none."""
    if name not in STUDIES:
        raise UsageError(f"there is no study {name!r}; there are {', '.join(STUDIES)}")
    return STUDIES[name]
