"""Less memory than a step needs: the batch goes through in parts, with the loss curve of the whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hark_processes import Parent

from hark.learning.dataset import Source
from hark.record.runs import Run

Record = Callable[[str, object], None]

# 40 clips with up to 30 s of other sound before each: what a step takes is mostly for them.
RECIPE = """
[training]
epochs = 3
batch_size = 40
learning_rate = 0.02
validations = 1
normalization = "keep"
variation = {lived_in_share = 1.0, lived_in_max_s = 30.0}

[stages.base]
kind = "train"
network = {channels = 2, kernel = [5, 20], stride = [4, 16], hidden = [6, 6], dropout = 0.2}
"""
EACH_STEP = """
import hark.record.progress
hark.record.progress.LOG_EVERY_STEPS = 1
"""
MEASURE = (
    EACH_STEP
    + """
import atexit, re
from pathlib import Path

def bytes_of(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

before = bytes_of("VmSize")
atexit.register(lambda: Path({path!r}).write_text(f"{{before}} {{bytes_of('VmPeak')}}"))
"""
)
LIMIT = (
    EACH_STEP
    + """
import resource
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
"""
)


@pytest.fixture(scope="module")
def parent() -> Iterator[Parent]:
    # Else each thread may reserve 64 MiB of address space, or not: the need would not be the same twice.
    with Parent(MALLOC_ARENA_MAX="1") as parent:
        yield parent


def losses(run: Run) -> list[float]:
    return [event["loss"] for event in run.events() if event["kind"] == "train"]


def parts(run: Run) -> list[int]:
    """The clips of a part, each time that memory ran out."""
    return [event["clips"] for event in run.events() if event["kind"] == "micro_batch"]


@pytest.mark.fault("F19")
@pytest.mark.chaos
def test_four_fifths_of_the_memory_give_the_same_loss_curve_and_a_tenth_an_error(
    parent: Parent, tiny_source: Source, tmp_path: Path, record_property: Record
) -> None:
    """Of the address space that the command needs beyond what it begins with, by RLIMIT_AS."""
    recipe, log, peak = tmp_path / "r.toml", tmp_path / "output.log", tmp_path / "peak"
    recipe.write_text(RECIPE)
    corpus = ["--data", tiny_source.root, "--keyword", "beep", "--folds", 2, "--speech", tiny_source.speech]

    def run(name: str, before: str, *, code: int = 0) -> Run:
        process = parent(
            ["train", recipe, *corpus, "--device", "cpu", "--out", tmp_path / name], log, before=before
        )
        assert process.wait(300) == code, log.read_text()
        return Run(tmp_path / name / "r" / "fold-0" / "base")

    free = run("free", MEASURE.format(path=str(peak)))
    before, need = map(int, peak.read_text().split())
    limited = {
        share: run(str(share), LIMIT.format(limit=int(before + share * (need - before))), code=code)
        for share, code in ((1.2, 0), (0.8, 0), (0.1, 6))
    }
    expected, found = losses(free), losses(limited[0.8])
    apart = max(abs(one - other) for one, other in zip(expected, found, strict=True))
    error = log.read_text().splitlines()[-1]
    told = re.search(r"at least [\d,]+ MiB are needed.* allows [\d,]+ MiB", error)
    record_property(
        "outcome",
        f"1.2 times the need: {len(parts(limited[1.2]))} halvings; 0.8 times: parts of {parts(limited[0.8])[-1]} "
        f"of 40 clips, losses of {len(found)} steps within {apart:.0e}; 0.1 times: exit 6, {told and told[0]!r}",
    )
    assert losses(limited[1.2]) == expected
    assert parts(limited[1.2]) == []
    assert parts(limited[0.8])[0] == 20
    assert apart <= 1e-6
    assert told, error
