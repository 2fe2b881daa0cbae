"""What is measured below Python: the core's peak, the engine in a C loop, instructions counted by callgrind."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hark
from hark import _engine

HERE = Path(__file__).parent
ENGINE = Path(hark.__file__).parent / "engine"
# As setup.py compiles the engine.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", f"-I{ENGINE}"]
AVX2 = ["-mavx2", "-DHARK_LANES=8"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512", "-DHARK_LANES=16"]
WIDEST = AVX512 if "avx512" in _engine.VARIANTS else AVX2
# Each function by itself, but for those on vectors: that is how its share is seen.
APART = ["-fno-inline", "-fno-ipa-cp", "-fno-ipa-sra"]
LIMIT_S = 120

PARTS = {
    "window": ("load_frames",),
    "FFT": ("first_pass", "turned_pass"),
    "power spectrum": ("power_spectrum",),
    "mel bands, logarithm": ("log_mel_frames", "-load_frames", "-first_pass", "-turned_pass", "-power_spectrum"),
    "affine": ("affine_f32", "affine_i16"),
    "convolution": ("window_f32", "window_i16"),
    "GRU": ("cell_f32", "cell_i16"),
    "attention": ("attention_f32", "attention_i16"),
    "classifier, softmax": ("logits_i16", "posteriors_f32"),
}
"""Functions of the engine, each with all that it calls; a minus takes out what stands elsewhere."""
FRONT_END = ("window", "FFT", "power spectrum", "mel bands, logarithm")
REST = "sound in, results out"


class Programs:
    """The C programs of this folder, compiled into another one."""

    def __init__(self, folder: Path) -> None:
        """Compile, two at a time.

        Raises:
            subprocess.CalledProcessError: gcc refuses; it takes gcc, and valgrind's headers.
        """
        self.loop, self.wide_loop, self.apart = (folder / name for name in ("loop", "wide_loop", "apart"))
        self.peak, self.switch, self.counts = (folder / name for name in ("peak", "switch.so", "counts"))
        with ThreadPoolExecutor(2) as pool:
            list(
                pool.map(
                    _compile,
                    ("loop.c", "loop.c", "loop.c", "peak.c", "switch.c"),
                    (self.loop, self.wide_loop, self.apart, self.peak, self.switch),
                    (AVX2, WIDEST, [*AVX2, *APART], WIDEST, ["-shared", "-fPIC"]),
                )
            )

    def peak_gflops(self) -> float:
        """Multiplications and additions that one core does, none fused: the best of three runs."""
        return max(float(_on_one_core([str(self.peak)])) for _ in range(3))

    def loop_us(self, model: Path, *, streams: int) -> float:
        """CPU time of a second of sound in a C loop, in microseconds: the best of five runs."""
        program, seconds = (self.loop, 400) if streams == 1 else (self.wide_loop, 20)
        command = [str(program), str(model), str(streams), str(seconds)]
        return min(float(_on_one_core(command)) for _ in range(5))

    def instructions(self, python: Path, arguments: Sequence[str]) -> float:
        """Instructions of a second of sound of a contender, Python included; AVX2, as valgrind knows no more.

        Raises:
            subprocess.SubprocessError: it does not run under valgrind, or not within `LIMIT_S`.
        """
        command = [str(python), str(HERE / "measure.py"), *arguments, "--count", str(self.switch)]
        done = self._callgrind(command, "--instr-atstart=no")
        return _collected(done) / float(json.loads(done.stdout.splitlines()[-1])["stream_s"])

    def profile(self, model: Path, *, streams: int = 1) -> dict[str, float]:
        """Instructions of a second of sound of one of the streams in each part of the engine, with AVX2."""
        seconds = 8 if streams == 1 else 2
        command = [str(self.apart), str(model), str(streams), str(seconds)]
        done = self._callgrind(command, "--toggle-collect=hark_step_many")
        listing = ["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(self.counts)]
        annotated = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
        found = re.findall(r"^ *([\d,]+) \([^)]*\) +\S+?:(\w+)", annotated, re.M)
        inclusive = {name: int(count.replace(",", "")) for count, name in found}
        parts = {
            part: sum(_signed(name, inclusive) for name in functions) / (seconds * streams)
            for part, functions in PARTS.items()
        }
        return parts | {REST: _collected(done) / (seconds * streams) - sum(parts.values())}

    def _callgrind(self, command: Sequence[str], option: str) -> subprocess.CompletedProcess[str]:
        call = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.counts}", option, *command]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=LIMIT_S, env=environment)


def _compile(source: str, to: Path, flags: Sequence[str]) -> None:
    subprocess.run(["gcc", "-std=gnu99", *FLAGS, *flags, str(HERE / source), "-o", str(to)], check=True)


def _signed(name: str, inclusive: dict[str, int]) -> int:
    return -inclusive.get(name[1:], 0) if name.startswith("-") else inclusive.get(name, 0)


def _collected(done: subprocess.CompletedProcess[str]) -> int:
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def _on_one_core(command: Sequence[str]) -> str:
    pinned = ["taskset", "-c", str(max(os.sched_getaffinity(0))), *command]
    return subprocess.run(pinned, capture_output=True, text=True, check=True).stdout
