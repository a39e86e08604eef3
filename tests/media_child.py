"""Runs in a child process of the tests: media work under a memory limit, answers as JSON on standard output.

python media_child.py wide FILE               refuse FILE; memory that it took
python media_child.py long SHORT LONG         judge both; how much more memory the long one took
python media_child.py overlay SHORT LONG DIR  the same for the overlay
python media_child.py fuzz DIR FIRST COUNT    mutated files: how many gave a result, an error, something else
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from crossmamba.data.media import read_audio
from crossmamba.errors import MediaError
from tests.fake_avs import fake_pipeline
from tests.media_files import clicks, good, muxed, pcm_wav

MIB = 2**20


def peak_mib() -> float:
    """The largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limit(more_mib: int) -> None:
    """Lets the address space grow by so much from now on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + more_mib * MIB
    resource.setrlimit(resource.RLIMIT_AS, (space, space))


def wide(path: str) -> dict[str, object]:
    """Refuses one file under a limit of 300 MiB."""
    pipe = fake_pipeline()
    before = peak_mib()
    limit(300)
    try:
        list(pipe.stream(path))
        said = "accepted"
    except MediaError as error:
        said = str(error)
    return {"said": said, "growth": peak_mib() - before}


def long(short_path: str, long_path: str) -> dict[str, object]:
    """Peak after the short and after the long video."""
    pipe = fake_pipeline()
    for _ in range(2):
        few = sum(1 for _ in pipe.stream(short_path))
    before = peak_mib()
    many = sum(1 for _ in pipe.stream(long_path))
    return {"few": few, "many": many, "growth": peak_mib() - before}


def overlay(short_path: str, long_path: str, folder: str) -> dict[str, object]:
    """Peak after both overlays; the results are made before."""
    pipe = fake_pipeline()
    few, many = pipe(short_path), pipe(long_path)
    few.save_overlay(Path(folder) / "few.mp4")
    before = peak_mib()
    many.save_overlay(Path(folder) / "many.mp4")
    return {"growth": peak_mib() - before}


def fuzz(folder: str, first: str, count: str) -> dict[str, object]:
    """Mutates small files of several kinds; judges, draws and reads each."""
    pipe = fake_pipeline()
    stamps = [number / 8 for number in range(16)]
    seeds = [
        good(Path(folder) / "seed.mp4", 2.0),
        pcm_wav(Path(folder) / "seed.wav", clicks(0.5) * 30000),
        good(Path(folder) / "again.mp4", 2.0),
        muxed(Path(folder) / "seed.mkv", stamps, sound=clicks(2.0)),
        muxed(Path(folder) / "seed.avi", stamps, sound=clicks(2.0), codec="mpeg4", sound_codec="pcm_s16le"),
        muxed(Path(folder) / "seed.ts", stamps, sound=clicks(2.0)),
    ]
    limit(1024)
    results, errors, others, slowest = 0, 0, [], 0.0
    for number in range(int(first), int(first) + int(count)):
        source = seeds[number % len(seeds)]
        path = Path(folder) / f"mutated{source.suffix}"
        path.write_bytes(mutated(source.read_bytes(), np.random.default_rng(number)))
        start = time.monotonic()
        try:
            if source.suffix != ".wav":
                pipe(path).save_overlay(Path(folder) / "overlay.mp4")
            read_audio(path)
            results += 1
        except MediaError:
            errors += 1
        except Exception:
            others.append(f"{source.suffix} {number}: {traceback.format_exc()}")
        slowest = max(slowest, time.monotonic() - start)
    return {"results": results, "errors": errors, "others": others, "peak": peak_mib(), "slowest": slowest}


def mutated(source: bytes, generator: np.random.Generator) -> bytes:
    """Some of: bytes replaced, numbers set to extremes, a piece removed, doubled, or the end cut off."""
    data = bytearray(source)
    for _ in range(generator.integers(1, 12)):
        at = int(generator.integers(0, len(data)))
        if generator.random() < 0.5:  # headers and tables lie at both ends
            at = int(generator.choice([at % 64, at % 1200, max(0, len(data) - 1 - at % 1200)]))
        kind = generator.integers(0, 6)
        length = int(generator.integers(1, 64))
        if kind <= 2:
            data[at : at + 1] = generator.bytes(1)
        elif kind == 3:
            data[at : at + 4] = bytes.fromhex(["00000000", "ffffffff", "7fffffff", "80000000"][length % 4])
        elif kind == 4:
            del data[at : at + length]
        else:
            data[at:at] = data[at : at + length]
    return bytes(data[: len(data) // 2] if generator.random() < 0.1 else data)


if __name__ == "__main__":
    verb = {"wide": wide, "long": long, "overlay": overlay, "fuzz": fuzz}[sys.argv[1]]
    print(json.dumps(verb(*sys.argv[2:])))
