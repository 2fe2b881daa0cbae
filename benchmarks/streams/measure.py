"""Measures one contender in this process, on one core, and prints a JSON object.

    python benchmarks/streams/measure.py KIND [ARGUMENT ...] [--cpu-seconds 0.5]
    valgrind --tool=callgrind --instr-atstart=no python benchmarks/streams/measure.py KIND --count LIBRARY

With `--count` nothing is timed: callgrind counts the instructions of one pass, LIBRARY (switch.c) tells it when.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from pathlib import Path

import numpy as np
from contenders import CONTENDERS, Contender, Pcm

SOUND_S = 8


def noise(samples: int) -> Pcm:
    """Noise that swells and fades as speech does."""
    rng = np.random.default_rng(0)
    turns = np.arange(0, samples + 4_000, 4_000)
    loudness = np.interp(np.arange(samples), turns, rng.uniform(0, 6000, len(turns)))
    return (rng.standard_normal(samples) * loudness).clip(-32768, 32767).astype(np.int16)


def chunks_for(contender: Contender) -> list[Pcm]:
    """`SOUND_S` of sound in chunks; streams side by side hear different parts of it."""
    size, streams = contender.chunk_samples, contender.streams
    count = SOUND_S * contender.sample_rate // size
    heard = noise(count * size).reshape(count, size)
    if streams == 1:
        return list(heard)
    return [heard[(np.arange(streams) + chunk) % count] for chunk in range(count)]


def one_pass(contender: Contender, chunks: list[Pcm]) -> tuple[float, list[float]]:
    """CPU seconds of all chunks, and wall seconds of each."""
    walls = []
    began = time.process_time()
    for chunk in chunks:
        start = time.perf_counter()
        contender.step(chunk)
        walls.append(time.perf_counter() - start)
    return time.process_time() - began, walls


def timed(contender: Contender, cpu_seconds: float) -> dict[str, float]:
    """Passes over the sound until so much CPU time is spent; the first of them warms up."""
    chunks = chunks_for(contender)
    one_pass(contender, chunks)
    stream_s = len(chunks) * contender.chunk_samples / contender.sample_rate * contender.streams
    costs, walls = [], []
    while sum(costs) < cpu_seconds:
        cpu_s, pass_walls = one_pass(contender, chunks)
        costs.append(cpu_s)
        walls += pass_walls
    walls.sort()
    return {
        "us_per_second": 1e6 * sum(costs) / len(costs) / stream_s,
        "chunk_us_p50": 1e6 * walls[len(walls) // 2],
        "chunk_us_p99": 1e6 * walls[len(walls) * 99 // 100],
    }


def counted(contender: Contender, library: str) -> dict[str, float]:
    """Has callgrind count one pass; returns the seconds of sound that it heard, over all streams."""
    switch = ctypes.CDLL(library)
    chunks = chunks_for(contender)
    for chunk in chunks[: len(chunks) // 4]:
        contender.step(chunk)
    switch.start()
    for chunk in chunks:
        contender.step(chunk)
    switch.stop()
    return {"stream_s": len(chunks) * contender.chunk_samples / contender.sample_rate * contender.streams}


def peak_rss_mb() -> float:
    """Of this process, in megabytes; `getrusage` would tell its parent's if that was larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6


def main() -> None:
    """Load, warm up, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=CONTENDERS)
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--cpu-seconds", type=float, default=0.5)
    parser.add_argument("--count", metavar="LIBRARY")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    began = time.perf_counter()
    contender: Contender = CONTENDERS[options.kind](*options.arguments)
    load_s = time.perf_counter() - began
    found = counted(contender, options.count) if options.count else timed(contender, options.cpu_seconds)
    about = {
        "chunk_ms": 1000 * contender.chunk_samples / contender.sample_rate,
        "streams": contender.streams,
        "model_bytes": contender.model_bytes,
        "load_ms": 1000 * load_s,
        "peak_rss_mb": peak_rss_mb(),
    }
    print(json.dumps(about | found))


if __name__ == "__main__":
    main()
