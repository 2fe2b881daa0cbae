"""Measures one contender in this process and prints a JSON object.

python benchmarks/streams/measure.py KIND [ARGUMENT ...] [--seconds 60] [--passes 5]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import numpy as np
from contenders import CONTENDERS, Contender, Pcm

SAMPLE_RATE = 16_000


def sound(seconds: float) -> Pcm:
    """Noise that swells and fades as speech does."""
    rng = np.random.default_rng(0)
    samples = int(seconds * SAMPLE_RATE)
    turns = np.arange(0, samples + SAMPLE_RATE // 4, SAMPLE_RATE // 4)
    loudness = np.interp(np.arange(samples), turns, rng.uniform(0, 6000, len(turns)))
    return (rng.standard_normal(samples) * loudness).clip(-32768, 32767).astype(np.int16)


def one_pass(contender: Contender, chunks: list[Pcm]) -> tuple[float, list[float]]:
    """CPU seconds of all chunks, and wall seconds of each."""
    walls = []
    began = time.process_time()
    for chunk in chunks:
        start = time.perf_counter()
        contender.step(chunk)
        walls.append(time.perf_counter() - start)
    return time.process_time() - began, walls


def main() -> None:
    """Load, warm up, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=CONTENDERS)
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--passes", type=int, default=5)
    options = parser.parse_args()
    began = time.perf_counter()
    contender: Contender = CONTENDERS[options.kind](*options.arguments)
    load_s = time.perf_counter() - began
    heard = sound(options.seconds)
    size = contender.chunk_samples
    chunks = [np.ascontiguousarray(heard[start : start + size]) for start in range(0, len(heard) - size + 1, size)]
    one_pass(contender, chunks[: len(chunks) // 10])
    passes = [one_pass(contender, chunks) for _ in range(options.passes)]
    stream_seconds = len(chunks) * size / SAMPLE_RATE * contender.streams
    costs = [cpu_s / stream_seconds for cpu_s, _ in passes]
    walls = sorted(wall for _, pass_walls in passes for wall in pass_walls)
    print(
        json.dumps(
            {
                "chunk_ms": 1000 * size / SAMPLE_RATE,
                "streams": contender.streams,
                "us_per_second": 1e6 * min(costs),
                "us_per_second_median": 1e6 * statistics.median(costs),
                "streams_per_core": 1 / min(costs),
                "chunk_us_p50": 1e6 * walls[len(walls) // 2],
                "chunk_us_p99": 1e6 * walls[len(walls) * 99 // 100],
                "load_ms": 1000 * load_s,
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "model_bytes": contender.model_bytes,
            }
        )
    )


if __name__ == "__main__":
    main()
