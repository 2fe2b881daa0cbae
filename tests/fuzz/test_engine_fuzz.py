"""The engine's reader and step under libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import hark
from hark.packed import packing
from packed_models import ARITHMETICS, INNER, random_model

ENGINE = Path(hark.__file__).parent / "engine"
HARNESS = Path(__file__).parents[1] / "engine" / "fuzz.c"
GOLDEN = Path(__file__).parents[1] / "golden"


def write_seeds(folder: Path) -> None:
    """The golden files, and models of every kind of layer; the first byte asks for a fitting checksum."""
    files = [path.read_bytes() for path in GOLDEN.glob("*.hark")]
    for seed in range(12):
        inner = [INNER[(seed + index) % len(INNER)] for index in range(seed % 5)]
        models = (random_model(arithmetic, inner, seed=seed) for arithmetic in ARITHMETICS)
        files += [packing.to_bytes(replace(model, metadata={})) for model in models]
    for index, file in enumerate(files):
        (folder / f"{index}").write_bytes(b"\1" + file)


LONG = pytest.mark.slow


@pytest.mark.fault("F11")
@pytest.mark.parametrize(
    ("lanes", "executions"),
    [(1, 10_000), pytest.param(1, 1_000_000, marks=LONG), pytest.param(4, 1_000_000, marks=LONG)],
)
def test_no_file_and_no_sound_breaks_the_engine(
    lanes: int, executions: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    fuzzer, corpus = tmp_path / "fuzz", tmp_path / "corpus"
    flags = ["-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-ffp-contract=off"]
    if not shutil.which("clang"):
        pytest.skip("clang: not installed")
    command = ["clang", *flags, f"-DHARK_LANES={lanes}", f"-I{ENGINE}", HARNESS, "-o", fuzzer]
    built = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    if "libclang_rt.fuzzer" in built.stderr:
        pytest.skip("libFuzzer: not installed (Debian: libclang-rt-dev)")
    assert built.returncode == 0, built.stderr
    corpus.mkdir()
    write_seeds(corpus)
    limits = [f"-runs={executions}", "-seed=1", "-max_len=6000", "-rss_limit_mb=1024", "-timeout=20"]
    done = subprocess.run([fuzzer, *limits, corpus], cwd=tmp_path, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-4_000:]
    ran = int(re.search(r"Done (\d+) runs", done.stderr)[1])  # type: ignore[index]
    record_property("outcome", f"engine, {lanes} lanes: {ran:,} files opened and run, or refused, without a fault")
    assert ran >= executions
