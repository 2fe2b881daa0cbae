"""`kill -9` at random moments, in a chain of stages: whatever it hits, the end is that of an undisturbed run."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hark_processes import Parent, Process, Start, start_fresh

from hark.files import TEMPORARY
from hark.learning.dataset import Source
from hark.record.runs import Run, find_runs

SEED = 20260101
RECIPE = """
[training]
epochs = 4
batch_size = 16
learning_rate = 0.02
validations = 2
save_every_s = 0.0

[stages.teacher]
kind = "train"
network = {channels = 2, kernel = [5, 20], stride = [4, 16], hidden = [6, 6], dropout = 0.2}

[stages.student]
kind = "distill"
teachers = ["teacher"]
network = {channels = 2, kernel = [5, 20], stride = [4, 16], hidden = [4], dropout = 0.2}

[stages.int8]
kind = "quantize"
model = "student"
"""
JUDGED = ["--set", "stages.int8.setting=int8"]


@pytest.fixture
def arguments(tiny_source: Source, tmp_path: Path) -> list[object]:
    """The chain on the tiny corpus; only where its runs go is missing."""
    recipe = tmp_path / "chain.toml"
    recipe.write_text(RECIPE)
    corpus = ["--data", tiny_source.root, "--keyword", "beep", "--folds", 2, "--speech", tiny_source.speech]
    return ["train", recipe, *corpus, "--device", "cpu"]


def hashes(out: Path) -> dict[str, str]:
    """The SHA-256 of every stage's model, and of weights, average and optimiser after the last step."""
    found = {}
    for run in find_runs([out]):
        last = [path for folder in run.checkpoints.folders()[-1:] for path in sorted(folder.glob("*.safetensors"))]
        for path in (run.path("model.safetensors"), *last):
            found[str(path.relative_to(out))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def steps_lost(run: Run) -> list[int]:
    """How many of the saved steps each start of the run went back."""
    lost, saved = [], 0
    for event in run.event_log.history():
        if event["kind"] == "resumed":
            lost.append(max(0, saved - event["step"]))
        if event["kind"] in ("resumed", "saved"):
            saved = event["step"]
    return lost


@pytest.mark.fault("F1")
@pytest.mark.parametrize(
    ("fresh", "kills"),
    [
        pytest.param(False, 20, id="20 forked"),
        pytest.param(True, 60, id="60 fresh", marks=pytest.mark.chaos),
    ],
)
def test_a_chain_killed_at_random_moments_ends_as_if_it_never_was(
    parent: Parent,
    arguments: list[object],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    fresh: bool,
    kills: int,
) -> None:
    """Killed while it loads, decodes, trains, saves, shrinks and judges."""
    start: Start = start_fresh if fresh else parent
    arguments = [*arguments, *(JUDGED if fresh else ())]

    def begin(name: str) -> Process:
        return start([*arguments, "--out", tmp_path / name], tmp_path / "output.log")

    begun = time.monotonic()
    assert begin("undisturbed").wait(120) == 0, (tmp_path / "output.log").read_text()
    # What was saved is not done again: forked ones, which have not to load torch, would mostly come to their end.
    longest_s = (time.monotonic() - begun) * (1.0 if fresh else 0.5)
    expected = hashes(tmp_path / "undisturbed")
    assert len(expected) == 9, "three models, and three files of the last checkpoint of both trainings"

    chance = random.Random(SEED)
    record_property("seed", SEED)
    killed, equal, lost = 0, [], []
    while killed < kills:
        name, begun, killed_before = f"disturbed-{len(equal)}", time.monotonic(), killed
        while (code := outlive(begin(name), chance.uniform(0, longest_s) if killed < kills else 120)) != 0:
            assert code == -signal.SIGKILL, (tmp_path / "output.log").read_text()
            killed += 1
        if killed == killed_before:  # a machine that is less busy by now would outrun the kills
            longest_s = min(longest_s, time.monotonic() - begun)
        equal.append(hashes(tmp_path / name) == expected)
        for run in find_runs([tmp_path / name]):
            lost += steps_lost(run)
            assert not [path for path in run.folder.rglob("*") if path.name.startswith(TEMPORARY)]
    record_property(
        "outcome",
        f"{sum(equal)} of {len(equal)} chains of three stages, killed {killed} times in all, end with the SHA-256 "
        f"of one never killed, models and optimisers; {sum(lost)} saved steps are lost",
    )
    assert all(equal)
    assert sum(lost) == 0


def outlive(process: Process, life_s: float) -> int:
    """The exit code of a process that is killed if it lives longer."""
    try:
        return process.wait(life_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait()


SAVE_LARGE = """
import sys
from pathlib import Path
from hark.record.runs import Run
run = Run.open(Path(sys.argv[1]))
run.checkpoints.keep = 1
tensor = bytes(160 << 20)
with run.locked():
    run.checkpoints.save(max(run.checkpoints.steps()) + 1, {"tensor": tensor}, info={})
"""


@pytest.mark.fault("F2")
@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.chaos)])
def test_a_kill_while_160_megabytes_are_saved_leaves_the_previous_checkpoint_or_the_new_one(
    tmp_path: Path, record_property: Callable[[str, object], None], kills: int
) -> None:
    """Killed U(0, 0.6 s) after the first file is begun; what is half written is gone at the run's next start."""
    run = Run.create(tmp_path, "large", about={})
    run.checkpoints.save(0, {"tensor": b""}, info={})
    chance = random.Random(SEED)
    record_property("seed", SEED)
    previous, found = 0, {"the previous": 0, "the new": 0}
    for _ in range(kills):
        command = [sys.executable, "-c", SAVE_LARGE, str(run.folder)]
        with subprocess.Popen(command) as process:
            while not [*run.checkpoints.folder.glob(f"{TEMPORARY}*/tensor")] and process.poll() is None:
                time.sleep(0.001)
            outlive(process, chance.uniform(0, 0.6))
        with run.locked():
            assert not [path for path in run.folder.rglob("*") if path.name.startswith(TEMPORARY)]
            newest = run.checkpoints.latest()
        assert newest is not None
        found["the previous" if newest.step == previous else "the new"] += 1
        assert newest.step in (previous, previous + 1)
        previous = newest.step
    told = " and ".join(f"{number} times {which} one" for which, number in found.items())
    record_property(
        "outcome", f"killed {kills} times while 160 MB were saved, a whole checkpoint was found: {told}"
    )
