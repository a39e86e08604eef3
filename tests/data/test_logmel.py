"""The log-mel against a second implementation written from the definitions (plain loops, a DFT matrix), and by ear."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crossmamba.data.logmel import SILENCE_LOG_MEL, clip_log_mel, vggish_log_mel
from crossmamba.errors import DataError, UsageError


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, n)


def tone(hertz: float, seconds: float) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(16000 * seconds)) / 16000)


def naive_log_mel(waveform: np.ndarray) -> np.ndarray:
    """(n,) -> (E, 96, 64) by the sentences of spec §2.6."""
    k, n = np.arange(257)[:, None], np.arange(400)[None]
    hann = np.array([0.5 * (1 - math.cos(2 * math.pi * i / 400)) for i in range(400)])
    dft = np.exp(-2j * np.pi * k * n / 512) * hann
    to_mel = lambda f: 1127 * math.log(1 + f / 700)  # noqa: E731
    step = (to_mel(7500) - to_mel(125)) / 65
    weights = np.zeros((257, 64))
    for band in range(64):
        low, mid, high = (to_mel(125) + step * (band + i) for i in range(3))
        for b in range(257):
            m = to_mel(b * 8000 / 256)
            if low < m <= mid:
                weights[b, band] = (m - low) / (mid - low)
            elif mid < m < high:
                weights[b, band] = (high - m) / (high - mid)
    frames = []
    start = 0
    while start + 400 <= len(waveform):
        frames.append(np.log(np.abs(dft @ waveform[start : start + 400]) @ weights + 0.01))
        start += 160
    count = len(frames) // 96
    return np.array(frames[: 96 * count]).reshape(count, 96, 64)


@pytest.mark.parametrize("n", [15599, 15600, 30959, 30960, 33333])
def test_equals_the_definition(n: int) -> None:
    waveform = noise(n)
    expected = naive_log_mel(waveform)
    got = vggish_log_mel(waveform)
    assert got.dtype == torch.float32
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-6)


def test_takes_float32_tensors() -> None:
    waveform = torch.from_numpy(noise(16000)).float()
    assert torch.equal(vggish_log_mel(waveform), vggish_log_mel(waveform.double().numpy()))


@pytest.mark.parametrize(("seconds", "examples"), [(0.5, 0), (1, 1), (5, 5), (10, 10), (70, 72)])
def test_number_of_examples(seconds: float, examples: int) -> None:
    assert len(vggish_log_mel(np.zeros(int(16000 * seconds)))) == examples


@pytest.mark.parametrize("hertz", [300.0, 440.0, 1000.0, 3000.0, 7000.0])
def test_a_tone_lands_in_its_band(hertz: float) -> None:
    mel = 1127 * np.log1p(np.array([125.0, hertz, 7500.0]) / 700)
    centre = (mel[1] - mel[0]) / (mel[2] - mel[0]) * 65 - 1  # band b is centred b + 1 steps above 125 Hz
    loudest = vggish_log_mel(tone(hertz, 1.0)).mean(1).argmax(-1)
    assert abs(int(loudest) - centre) <= 1


def test_silence_is_the_constant() -> None:
    assert torch.equal(vggish_log_mel(np.zeros(80000)), torch.full((5, 96, 64), SILENCE_LOG_MEL))


def test_blocks_do_not_change_the_result() -> None:
    waveform = noise(16000 * 66)
    whole = vggish_log_mel(waveform)
    assert torch.equal(whole[64], vggish_log_mel(waveform[64 * 15360 :])[0])


def test_published_framing_repeats_the_last_and_cuts() -> None:
    waveform = noise(16000 * 6)
    whole = vggish_log_mel(waveform)
    assert torch.equal(clip_log_mel(waveform, 5)[:, 0], whole[:5])
    short = clip_log_mel(waveform[: 16000 * 3], 5)
    assert short.shape == (5, 1, 96, 64)
    assert torch.equal(short[:3, 0], whole[:3])
    assert torch.equal(short[3], short[2])
    assert torch.equal(short[4], short[2])


def test_aligned_example_hears_its_own_second() -> None:
    waveform = np.concatenate([np.zeros(16000), tone(1000, 1), np.zeros(16000), tone(1000, 1), np.zeros(16000)])
    aligned = clip_log_mel(waveform, 5, framing="aligned")
    for second in (0, 2, 4):
        assert torch.equal(aligned[second], torch.full((1, 96, 64), SILENCE_LOG_MEL))
    for second in (1, 3):
        assert torch.equal(aligned[second, 0], vggish_log_mel(waveform[16000 * second : 16000 * (second + 1)])[0])
    published = clip_log_mel(waveform, 5)
    assert published[4].max() > SILENCE_LOG_MEL + 1, "the published fifth example drifts into the fourth second"


@pytest.mark.parametrize("framing", ["published", "aligned"])
def test_short_waveforms_are_padded_with_zero_samples(framing: str) -> None:
    waveform = noise(9000)
    padded = np.concatenate([waveform, np.zeros(7000)])
    assert torch.equal(clip_log_mel(waveform, 1, framing=framing), clip_log_mel(padded, 1, framing=framing))
    assert clip_log_mel(np.zeros(0), 2, framing=framing).shape == (2, 1, 96, 64)


def test_aligned_pads_the_last_second_only() -> None:
    waveform = noise(16000 * 2 + 4000)
    aligned = clip_log_mel(waveform, 4, framing="aligned")
    padded = np.concatenate([waveform, np.zeros(12000)])
    assert torch.equal(aligned[:3, 0], clip_log_mel(padded, 3, framing="aligned")[:, 0])
    assert torch.equal(aligned[3], torch.full((1, 96, 64), SILENCE_LOG_MEL))


def test_refusals() -> None:
    with pytest.raises(UsageError, match="average the channels"):
        vggish_log_mel(np.zeros((2, 16000)))
    with pytest.raises(UsageError, match="32768"):
        vggish_log_mel(np.zeros(16000, np.int16))
    with pytest.raises(DataError, match="NaN"):
        vggish_log_mel(np.full(16000, np.nan))
    with pytest.raises(UsageError, match="framing"):
        clip_log_mel(np.zeros(16000), 1, framing="centred")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 1"):
        clip_log_mel(np.zeros(16000), 0)
