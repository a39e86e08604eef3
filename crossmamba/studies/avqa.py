"""The studies of question answering, as data: AV-Mamba's Table 2, SHMamba's ablations, and both senses against one."""

from __future__ import annotations

from crossmamba.studies.rows import Row, Study, model_args


def _table2(name: str, space: str, time: str, *scores: float | None) -> Row:
    columns = zip(("A", "V", "AV", "All"), scores, strict=False)
    published = tuple((column, score) for column, score in columns if score is not None)
    return Row(name, "av_mamba", model_args(space=space, time=time), published=published)


AV_MAMBA_TABLE_2 = Study(
    "av-mamba-table2",
    "AV-Mamba's Table 2: spatial / temporal grounding",
    "AP, WP, CM: average, sound-weighted and CM-Mamba pooling of the picture. CA: cross-attention over time. CM I-IV: "
    "CM-Mamba over time, with the modality's own sequence (I), the fused one in the second tier (II), in the first "
    "(III, the paper's model) or in both (IV, not in the paper). CM II's scores are mostly lost (spec §1.3).",
    (
        _table2("AP / CA", "average", "attention", 74.74, 76.30, 68.56, 71.71),
        _table2("WP / CA", "weighted", "attention", 73.74, 76.51, 68.96, 71.80),
        _table2("CM / CA", "cm", "attention", 74.24, 77.83, 69.09, 72.32),
        _table2("CM / CM I", "cm", "cm1", 75.36, 77.99, 70.51, 73.35),
        _table2("CM / CM II", "cm", "cm2", None, 78.74, None, None),
        _table2("CM / CM III", "cm", "cm3", 74.67, 79.27, 70.62, 73.63),
        _table2("CM / CM IV", "cm", "cm4"),
    ),
)

SHMAMBA_ABLATIONS = Study(
    "shmamba-ablations",
    "SHMamba's ablations",
    "The paper's body was not available, so neither are its ablations nor its numbers (spec §2): these are the parts "
    "that its summary names, taken out or replaced one at a time.",
    (
        Row("SHMamba", "shmamba"),
        Row("no alignment", "shmamba", model_args(alignment="none")),
        Row("fixed curvature", "shmamba", model_args(curvature="fixed")),
        Row("no Mamba", "shmamba", model_args(mamba=False)),
        Row("no cross fusion", "shmamba", model_args(fusion="none")),
        Row("concatenation fusion", "shmamba", model_args(fusion="concat")),
        Row("Mamba shared across modalities", "shmamba", model_args(share="across_modality")),
        Row("one Mamba for all", "shmamba", model_args(share="all")),
        Row("alignment by bare distance", "shmamba", model_args(alignment="distance")),
        Row("alignment by Gram matrices", "shmamba", model_args(alignment="gram_mse")),
        Row("Mamba on ball coordinates", "shmamba", model_args(space="ball")),
    ),
)


def _single_modality(title: str, model: str) -> tuple[Row, ...]:
    return (
        Row(title, model, perturbations=("none", "silence", "blank")),
        Row(f"{title}, trained without sound", model, ("--data.perturbation", "silence"), ("silence",)),
        Row(f"{title}, trained without picture", model, ("--data.perturbation", "blank"), ("blank",)),
    )


AVQA = Study(
    "avqa",
    "AV-Mamba, SHMamba and AVST, with both modalities and with one",
    "Each model as it is, with its sound silenced and its picture blanked at test time, and trained without either.",
    (
        *_single_modality("AV-Mamba", "av_mamba"),
        *_single_modality("SHMamba", "shmamba"),
        *_single_modality("AVST", "avst"),
    ),
)
