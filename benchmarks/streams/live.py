"""Many live streams of one model on one core, each of which must have its 80 ms heard within 80 ms.

    python benchmarks/streams/live.py MODEL [--streams 20000] [--batch 64] [--seconds 30]

Streams of a batch began together, batches at different moments, as on a server. A round hears one chunk of each
stream and begins when the clock says so, late only where the round before took too long. Prints a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from measure import Pcm, noise, peak_rss_mb

import hark
from hark import _engine

CHUNK_S = 0.080
SOUND_CHUNKS = 400


def begin(model: hark.Model, sizes: list[int]) -> list[_engine.Streams]:
    """A batch of each size, begun at different moments, so that not all make their steps in the same round."""
    batches = [model.streams(size) for size in sizes]
    for number, (streams, size) in enumerate(zip(batches, sizes, strict=True)):
        streams.step(np.zeros((size, number % 12 * model.step_samples // 12), np.int16))
    return batches


def hear_out(batches: list[_engine.Streams], sounds: list[list[Pcm]], rounds: int) -> dict[str, float]:
    """Hears one chunk of every stream in each round, in real time.

    Args:
        batches: the streams.
        sounds: of each batch, what it hears in turn, `(streams, samples)` each.
        rounds: how many.
    """
    took_s, delay_s = np.zeros(rounds), np.zeros(rounds)
    cpu_s, began = time.process_time(), time.monotonic()
    for number in range(rounds):
        due = began + number * CHUNK_S
        time.sleep(max(0.0, due - time.monotonic()))
        start = time.monotonic()
        for streams, heard in zip(batches, sounds, strict=True):
            streams.step(heard[number % len(heard)])
        took_s[number], delay_s[number] = time.monotonic() - start, time.monotonic() - due
    return {
        "sound_s": rounds * CHUNK_S,
        "share": (time.process_time() - cpu_s) / (rounds * CHUNK_S),
        "round_ms_p50": 1e3 * float(np.median(took_s)),
        "round_ms_p99": 1e3 * float(np.quantile(took_s, 0.99)),
        "round_ms_max": 1e3 * float(took_s.max()),
        "late_rounds": int((delay_s > CHUNK_S).sum()),
    }


def main() -> None:
    """Begin all streams, hear them out, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    model = hark.Model(options.model)
    chunk = int(CHUNK_S * model.sample_rate)
    sizes = [min(options.batch, options.streams - first) for first in range(0, options.streams, options.batch)]
    before_bytes = resident_bytes()
    batches = begin(model, sizes)
    stream_bytes = (resident_bytes() - before_bytes) / options.streams
    heard = noise(SOUND_CHUNKS * chunk).reshape(SOUND_CHUNKS, chunk)
    # Views of the same sound from different places on: what is measured is not how fast noise is made.
    turns = np.arange(32)
    sounds = [
        [heard[at : at + size] for at in (7 * batch + 11 * turns) % (SOUND_CHUNKS - size)]
        for batch, size in enumerate(sizes)
    ]
    about = {
        "streams": options.streams,
        "batch": options.batch,
        "state_bytes": model.state_bytes,
        "stream_bytes": stream_bytes,
    }
    found = hear_out(batches, sounds, round(options.seconds / CHUNK_S))
    print(json.dumps(about | found | {"peak_rss_mb": peak_rss_mb()}))


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
