"""VGGish's log-mel spectrogram, as torchvggish and AVSBench compute it (spec §2.6).

    16 kHz mono waveform
      -> frames of 400 samples (25 ms) every 160 (10 ms), periodic Hann window, FFT of 512 points, magnitude
      -> 64 triangular bands, 125 to 7500 Hz, evenly spaced and triangular on the HTK mel scale 1127 ln(1 + f / 700)
      -> log(mel + 0.01)
      -> examples of 96 frames (0.96 s; 15 600 samples from the first frame's start to the last one's end)

All arithmetic is float64, as published; only the result is float32. Work goes in blocks of examples, so memory does not
grow with the length of the waveform beyond the result itself.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from crossmamba.errors import DataError, UsageError

__all__ = ["SAMPLE_RATE", "SILENCE_LOG_MEL", "Framing", "clip_log_mel", "vggish_log_mel"]

Framing = Literal["published", "aligned"]

SAMPLE_RATE = 16_000  # Hz
WINDOW = 400  # samples
HOP = 160  # samples
FFT = 512  # points
BANDS = 64
LOWEST_HZ, HIGHEST_HZ = 125.0, 7500.0
LOG_OFFSET = 0.01
FRAMES = 96  # STFT frames in an example
EXAMPLE_HOP = FRAMES * HOP  # 15 360 samples: published examples follow each other without overlap
EXAMPLE_SPAN = EXAMPLE_HOP - HOP + WINDOW  # 15 600 samples that one example looks at

SILENCE_LOG_MEL = math.log(LOG_OFFSET)  # every value of digital silence: -4.605, not zero

_BLOCK = 64  # examples computed at once: about 60 MB of work space


def vggish_log_mel(waveform: np.ndarray | Tensor) -> Tensor:
    """Log-mel examples every 0.96 s, the incomplete tail dropped.

    Args:
        waveform: (n,) floating point, mono, 16 kHz, int16 samples divided by 32768.

    Returns:
        (E, 96, 64) float32 on the CPU: examples x frames of 10 ms x mel bands. E is 0 for less than 15 600 samples,
        5 for 5 s, 10 for 10 s.

    Raises:
        UsageError: the waveform is not one-dimensional or not floating point.
        DataError: it holds NaN or infinite samples.
    """
    return _log_mel(_checked(waveform), EXAMPLE_HOP)


def clip_log_mel(waveform: np.ndarray | Tensor, seconds: int, framing: Framing = "published") -> Tensor:
    """One log-mel example for each of the clip's first `seconds` seconds.

    `published` takes VGGish's examples, which start at 0.96 t s: they drift against frames sampled once a second (0.2 s
    by the fifth). Where the waveform gives fewer than `seconds` examples the last is repeated, as the S4 and MS3
    preprocessing does. `aligned` starts example t at second t.
    A waveform that is too short for the (first) example is padded with zero samples; what is longer is cut.

    Args:
        waveform: (n,) as for `vggish_log_mel`.
        seconds: T, at least 1.
        framing: "published" or "aligned".

    Returns:
        (T, 1, 96, 64) float32 on the CPU, ready for a sound encoder.

    Raises:
        UsageError: an unknown framing, `seconds` below 1, or a waveform of the wrong kind.
        DataError: the waveform holds NaN or infinite samples.
    """
    if seconds < 1:
        raise UsageError(f"seconds is {seconds}; a clip has at least 1 second")
    samples = _checked(waveform)
    if framing == "aligned":
        examples = _log_mel(_fit(samples, seconds * SAMPLE_RATE), SAMPLE_RATE)
    elif framing == "published":
        wanted = EXAMPLE_SPAN + (seconds - 1) * EXAMPLE_HOP
        samples = samples[:wanted] if len(samples) >= EXAMPLE_SPAN else _fit(samples, EXAMPLE_SPAN)
        examples = _log_mel(samples, EXAMPLE_HOP)
        missing = seconds - len(examples)
        examples = torch.cat([examples, examples[-1:].expand(missing, -1, -1)])
    else:
        raise UsageError(f"framing is {framing!r}; allowed: 'published' (every 0.96 s), 'aligned' (every second)")
    return examples[:, None]  # (T, 1, 96, 64)


def _checked(waveform: np.ndarray | Tensor) -> Tensor:
    """The waveform as float64 on the CPU, (n,)."""
    samples = torch.as_tensor(waveform).detach()
    if samples.ndim != 1:
        raise UsageError(f"waveform has shape {tuple(samples.shape)}; expected (n,): average the channels first")
    if not samples.is_floating_point():
        raise UsageError(f"waveform is {samples.dtype}; expected floating point in [-1, 1]: divide int16 by 32768")
    samples = samples.to("cpu", torch.float64)
    if not torch.isfinite(samples).all():
        raise DataError("waveform holds NaN or infinite samples: the sound is damaged, decode it again")
    return samples


def _fit(samples: Tensor, length: int) -> Tensor:
    """`samples` cut, or padded at the end with zeros, to `length`."""
    return torch.nn.functional.pad(samples[:length], (0, max(0, length - len(samples))))


def _log_mel(samples: Tensor, example_hop: int) -> Tensor:
    """(n,) float64 -> (E, 96, 64) float32: every whole example that starts at a multiple of `example_hop` samples.

    Examples are independent of each other, so the published "STFT of everything, then group 96 frames" is the same as
    cutting the waveform first.
    """
    if len(samples) < EXAMPLE_SPAN:
        return torch.empty(0, FRAMES, BANDS)
    examples = samples.unfold(0, EXAMPLE_SPAN, example_hop)  # (E, 15600) view
    window, bands = _hann(), _mel_bands()
    out = []
    for block in examples.split(_BLOCK):
        frames = block.unfold(1, WINDOW, HOP) * window  # (b, 96, 400)
        spectrum = torch.fft.rfft(frames, n=FFT)  # (b, 96, 257) complex; zeros fill 400 up to 512
        magnitude = (spectrum.real.square() + spectrum.imag.square()).sqrt()  # a third of the time of spectrum.abs()
        out.append(torch.log(magnitude @ bands + LOG_OFFSET).float())  # (b, 96, 64)
    return torch.cat(out)


@lru_cache(maxsize=1)
def _hann() -> Tensor:
    """(400,) periodic Hann window: the cosine's period is the window's length."""
    return 0.5 - 0.5 * torch.cos(2 * math.pi / WINDOW * torch.arange(WINDOW, dtype=torch.float64))


@lru_cache(maxsize=1)
def _mel_bands() -> Tensor:
    """(257, 64) weights of each FFT bin in each band: triangles of height 1, straight in mel, not in Hz."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hertz / 700.0)

    bins = mel(torch.linspace(0.0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64))[:, None]  # (257, 1)
    lowest, highest = mel(torch.tensor([LOWEST_HZ, HIGHEST_HZ], dtype=torch.float64)).tolist()
    edges = torch.linspace(lowest, highest, BANDS + 2, dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0.0)  # DC lies below 125 Hz: weight 0, as published
