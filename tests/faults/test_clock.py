"""The wall clock jumps: it is noted beside what happens, and decides nothing."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hark_processes import Parent, start_fresh

from hark.learning.dataset import Source
from hark.record.runs import Run

Record = Callable[[str, object], None]

RECIPE = """
[stages.base]
kind = "train"
network = {channels = 2, kernel = [5, 20], stride = [4, 16], hidden = [6, 6], dropout = 0.2}
training = {epochs = 80, batch_size = 16, learning_rate = 0.02, validations = 4, save_every_s = 0.0}
"""
# After so many steps: seconds to add to the wall clock, and how fast it runs.
JUMPS = {20: (86_400, 1), 40: (-86_400, 1), 60: (0, 100)}


@pytest.mark.chaos
@pytest.mark.fault("F22")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: the clock that lies is a library in C")
def test_a_clock_that_jumps_a_day_and_runs_a_hundred_times_too_fast_changes_nothing(
    parent: Parent,
    tiny_source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    recipe, library, clock = (tmp_path / name for name in ("one.toml", "wall_clock.so", "clock"))
    recipe.write_text(RECIPE)
    source = Path(__file__).with_name("wall_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    command = ["train", recipe, "--data", tiny_source.root, "--keyword", "beep", "--folds", 2, "--device", "cpu"]
    assert parent([*command, "--out", tmp_path / "honest"], tmp_path / "honest.log").wait(120) == 0

    clock.write_text("0 1")
    with monkeypatch.context() as lying:
        lying.setenv("LD_PRELOAD", str(library))
        lying.setenv("WALL_CLOCK", str(clock))
        process = start_fresh([*command, "--out", tmp_path / "lying"], tmp_path / "lying.log")
    checkpoints = tmp_path / "lying" / "one" / "fold-0" / "base" / "checkpoints"
    for step, (add_s, rate) in JUMPS.items():
        while not any(int(path.name[5:13]) >= step for path in checkpoints.glob("step-*")):
            assert process.poll() is None, (tmp_path / "lying.log").read_text()
            time.sleep(0.01)
        clock.write_text(f"{add_s} {rate}")
    assert process.wait(120) == 0, (tmp_path / "lying.log").read_text()

    honest, lying_ = (Run.open(tmp_path / name / "one" / "fold-0" / "base") for name in ("honest", "lying"))
    events = lying_.event_log.history()
    walls = [datetime.fromisoformat(event["wall"]).timestamp() for event in events]
    largest_s = [max(b - a for a, b in pairwise(walls)), min(b - a for a, b in pairwise(walls))]
    took_s = [later["time_s"] - earlier["time_s"] for earlier, later in pairwise(events)]
    equal = lying_.path("model.safetensors").read_bytes() == honest.path("model.safetensors").read_bytes()
    kinds = [[event["kind"] for event in run.event_log.history()] for run in (honest, lying_)]
    record_property(
        "outcome",
        f"the clock jumps by {largest_s[0] / 3600:+.0f} h and {largest_s[1] / 3600:+.0f} h and then runs "
        f"{JUMPS[60][1]}×: {sum(s < 0 for s in took_s)} of {len(took_s)} steps take less than no time, "
        f"{'the same' if equal else 'another'} model, {'the same' if kinds[0] == kinds[1] else 'other'} events",
    )
    assert largest_s[0] > 80_000
    assert largest_s[1] < -160_000
    assert min(took_s) >= 0
    assert equal
    assert kinds[0] == kinds[1], "nothing timed out, nothing was warned of"
