"""Sound perturbations, against what they must equal when computed from the waveform."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crossmamba.data import perturb
from crossmamba.data.logmel import clip_log_mel
from crossmamba.errors import DataError, UsageError


def waveform(seconds: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (0.2 * rng.standard_normal(seconds * 16000)).astype(np.float32)


def test_silence_is_what_a_silent_waveform_gives() -> None:
    silent = clip_log_mel(np.zeros(80000, np.float32), 5)
    assert torch.allclose(perturb.silence(clip_log_mel(waveform(), 5)), silent)
    assert silent.unique().tolist() == pytest.approx([math.log(0.01)])


@pytest.mark.parametrize("decibels", [-40.0, -20.0, -6.0, 0.0, 6.0])
def test_gain_equals_the_louder_waveform(decibels: float) -> None:
    sound = waveform()
    expected = clip_log_mel(sound.astype(np.float64) * 10 ** (decibels / 20), 5)
    assert torch.allclose(perturb.gain(clip_log_mel(sound, 5), decibels), expected, atol=1e-4)


def test_gain_leaves_silence_silent_and_refuses_infinity() -> None:
    silent = perturb.silence(torch.zeros(5, 1, 96, 64))
    assert torch.allclose(perturb.gain(silent, 30.0), silent, atol=1e-3)
    with pytest.raises(UsageError, match="silence"):
        perturb.gain(silent, -math.inf)


def test_shift_turns_whole_seconds_round() -> None:
    sound = clip_log_mel(waveform(), 5, "aligned")
    shifted = perturb.shift(sound, 2)
    assert torch.equal(shifted[2:], sound[:3])
    assert torch.equal(shifted[:2], sound[3:])
    assert torch.equal(perturb.shift(sound, 5), sound)
    assert not torch.equal(perturb.shift(sound), sound)


def test_noise_is_white_loud_and_seeded() -> None:
    noise = perturb.noise(5, 0, 3)
    assert noise.shape == (5, 1, 96, 64)
    assert torch.equal(noise, perturb.noise(5, 0, 3))
    assert not torch.equal(noise, perturb.noise(5, 0, 4))
    assert not torch.equal(noise, perturb.noise(5, 1, 3))
    rng = np.random.default_rng(9)
    uniform = clip_log_mel(rng.uniform(-1, 1, 80000), 5)  # the same law, other draws
    assert noise.mean().item() == pytest.approx(uniform.mean().item(), abs=0.05)
    per_second = noise.mean(dim=(1, 2, 3))
    assert (per_second - per_second.mean()).abs().max() < 0.1  # no second is favoured


@settings(max_examples=100, deadline=None)
@given(groups=st.lists(st.integers(0, 5), min_size=2, max_size=40), seed=st.integers(0, 1000))
def test_derangement_uses_each_once_and_never_the_same_group(groups: list[int], seed: int) -> None:
    assume(max(Counter(groups).values()) * 2 <= len(groups))
    partner = perturb.derangement(groups, seed)
    assert sorted(partner) == list(range(len(groups)))
    assert all(groups[i] != groups[j] for i, j in enumerate(partner))
    assert partner == perturb.derangement(groups, seed)


@pytest.mark.parametrize("groups", [["dog"], ["dog", "dog", "cat"], ["dog", "dog"]])
def test_a_derangement_that_cannot_be_is_refused(groups: list[str]) -> None:
    with pytest.raises(DataError, match="cannot be swapped"):
        perturb.derangement(groups, 0)


def test_seeds_give_different_partners() -> None:
    assert len({tuple(perturb.derangement(range(20), seed)) for seed in range(5)}) == 5


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="allowed: none, silence, swap, noise, shift, gain"):
        perturb.check_perturbation("echo")
