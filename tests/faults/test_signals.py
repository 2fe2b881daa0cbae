"""What signals do to a command: whatever it is doing, it ends soon, with the right code, and loses nothing."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hark_processes import Forked, Parent
from stopwatch import Stopwatch, Took

from hark.files import TEMPORARY
from hark.learning.dataset import Source
from hark.record.runs import Run

Record = Callable[[str, object], None]

SEED = 20260101
PATIENCE_S = 5.0
WISHES = 6
RECIPE = """
[stages.base]
kind = "train"
setting = "base"
network = {channels = 2, kernel = [5, 20], stride = [4, 16], hidden = [6, 6], dropout = 0.2}
training = {epochs = 12, batch_size = 16, learning_rate = 0.02, validations = 2}
"""
STEPS = 36
HELD_AT = 7
# What is run in the process before it begins: its seventh step lasts until the file `go_on` is there.
HOLD = f"""
import time
from pathlib import Path
import hark.learning.trainee
advance = hark.learning.trainee.Trainee.advance

def advance_and_wait(trainee):
    advance(trainee)
    if trainee.step == {HELD_AT}:
        Path(there).touch()
        while not Path(go_on).exists():
            time.sleep(0.001)

hark.learning.trainee.Trainee.advance = advance_and_wait
"""


@pytest.fixture(scope="module")
def command(tiny_source: Source, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """One training on the tiny corpus, judged when it is done; only where its run goes is missing."""
    recipe = tmp_path_factory.mktemp("recipes") / "one.toml"
    recipe.write_text(RECIPE)
    return ["train", recipe, "--data", tiny_source.root, "--keyword", "beep", "--folds", 2, "--device", "cpu"]


@pytest.fixture(scope="module")
def undisturbed(
    parent: Parent, command: list[object], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, float]:
    """The SHA-256 of the model when nothing happens, and what that takes in seconds."""
    out = tmp_path_factory.mktemp("undisturbed")
    begun = time.monotonic()
    assert parent([*command, "--out", out], out / "output.log").wait(60) == 0
    return hash_of(base(out)), time.monotonic() - begun


def base(out: Path) -> Run:
    """The run of the training."""
    return Run.open(out / "one" / "fold-0" / "base")


def hash_of(run: Run) -> str:
    """The SHA-256 of its model."""
    return hashlib.sha256(run.path("model.safetensors").read_bytes()).hexdigest()


def wait_until(reached: Callable[[], bool], *, patience_s: float = 60.0) -> None:
    """Return when something has come about."""
    until = time.monotonic() + patience_s
    while not reached():
        assert time.monotonic() < until, "it has not come about"
        time.sleep(0.005)


class Held:
    """The training in its seventh step, which lasts until it is let go on: whatever befalls it does so there."""

    def __init__(self, parent: Parent, command: list[object], folder: Path, *, before: str = "") -> None:
        self._go_on, there = folder / "go on", folder / "there"
        before = f"there, go_on = {str(there)!r}, {str(self._go_on)!r}\n{before}{HOLD}"
        self.process = parent([*command, "--out", folder / "runs"], folder / "output.log", before=before)
        wait_until(there.exists)

    def go_on(self) -> None:
        """Let it finish the step."""
        self._go_on.touch()


@pytest.mark.fault("P5")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_asked_to_stop_saves_and_goes_on_to_the_same_end(
    parent: Parent,
    command: list[object],
    undisturbed: tuple[str, float],
    tmp_path: Path,
    record_property: Record,
    number: signal.Signals,
) -> None:
    held = Held(parent, command, tmp_path)
    held.process.send_signal(number)
    stopwatch = Stopwatch()
    held.go_on()
    code, took = held.process.wait(60), stopwatch.read()
    run = base(tmp_path / "runs")
    saved = run.checkpoints.steps()[-1]
    last = (tmp_path / "output.log").read_text().splitlines()[-1]
    assert last == (
        f"hark: stopped, {run.folder} is saved at step {saved} of {STEPS}; the same command goes on from there"
    )
    assert run.status.state == "interrupted"
    assert saved == HELD_AT, "the step in hand was finished and saved, and none was begun after it"
    assert parent([*command, "--out", tmp_path / "runs"], tmp_path / "again.log").wait(60) == 0
    equal = hash_of(run) == undisturbed[0]
    record_property(
        "outcome",
        f"{number.name}: exit code {code} after {took.seconds:.1f} s, saved at the step in hand; gone on from "
        f"there, {'the same' if equal else 'another'} model",
    )
    assert (code, equal) == (128 + number, True)
    assert took.undisturbed_s < PATIENCE_S


@pytest.mark.fault("P5")
@pytest.mark.parametrize("signals", [8, pytest.param(60, marks=pytest.mark.chaos)])
def test_sigterm_at_any_moment_ends_a_command_soon_and_leaves_nothing_half_written(
    parent: Parent,
    command: list[object],
    undisturbed: tuple[str, float],
    tmp_path: Path,
    record_property: Record,
    signals: int,
) -> None:
    """After U(0, 0.7 of what the command takes): while it decodes, trains, saves and judges."""
    expected, life_s = undisturbed
    chance = random.Random(SEED)
    record_property("seed", SEED)
    sent, took, ends, starts = 0, list[Took](), list[bool](), count()
    while sent < signals:
        out = tmp_path / f"runs-{len(ends)}"
        code: int | None = None
        while code != 0:
            output = tmp_path / f"output-{next(starts)}.log"
            process = parent([*command, "--out", out], output)
            if sent < signals:
                time.sleep(chance.uniform(0, 0.7 * life_s))
                sent += process.poll() is None
                stopwatch = Stopwatch()
                process.send_signal(signal.SIGTERM)
            code = process.wait(60)
            if code != 0:
                took.append(stopwatch.read())
            said = output.read_text()
            if code == -signal.SIGTERM:  # before the command line was up or when it was done; 143 to a shell, too
                assert not said or said.endswith("stages done\n")
            assert code in (0, 143, -signal.SIGTERM), said
            assert not [path for path in out.rglob("*") if path.name.startswith(TEMPORARY)]
        ends.append(hash_of(base(out)) == expected)
    longest_s = max(each.seconds for each in took)
    record_property(
        "outcome",
        f"{sent} SIGTERM while decoding, training, saving and judging: exit code 143 within {longest_s:.1f} s at "
        f"most, no file half written, {sum(ends)} of {len(ends)} trainings end with the same model",
    )
    assert all(ends)
    assert all(each.undisturbed_s < PATIENCE_S for each in took)


@pytest.mark.fault("P5")
def test_sigusr1_saves_now_and_training_goes_on(
    parent: Parent, command: list[object], tmp_path: Path, record_property: Record
) -> None:
    held = Held(parent, command, tmp_path)
    held.process.send_signal(signal.SIGUSR1)
    held.go_on()
    code = held.process.wait(60)
    saved = [event["step"] for event in base(tmp_path / "runs").events() if event["kind"] == "saved"]
    first = min(step for step in saved if step >= HELD_AT)
    record_property("outcome", f"SIGUSR1 in step {HELD_AT}: saved at step {first}, exit code {code}")
    assert (first, code) == (HELD_AT, 0)


# The process leads a session of its own on a terminal, as the shell of a window does for what runs in it.
ON_A_TERMINAL = """
import os
os.setsid()
os.closerange(0, 3)
assert os.open(terminal, os.O_RDWR) == 0
os.dup2(0, 1)
os.dup2(0, 2)
"""


@pytest.mark.fault("F24")
@pytest.mark.usefixtures("terminals_that_hang_up")
def test_a_training_outlives_its_terminal(
    parent: Parent,
    command: list[object],
    undisturbed: tuple[str, float],
    tmp_path: Path,
    record_property: Record,
) -> None:
    """With a progress bar on it: the window is closed, the system sends SIGHUP, and every write fails."""
    ours, theirs = os.openpty()
    before = f"terminal = {os.ttyname(theirs)!r}\n" + ON_A_TERMINAL
    held = Held(parent, command, tmp_path, before=before)
    shown = os.read(ours, 1 << 16)
    os.close(theirs)
    os.close(ours)
    held.go_on()
    code = held.process.wait(60)
    run = base(tmp_path / "runs")
    equal = code == 0 and hash_of(run) == undisturbed[0]
    record_property(
        "outcome",
        f"terminal closed at step {HELD_AT} of {STEPS}: exit code {code} after step {run.status.step}, "
        f"{'the same' if equal else 'another'} model",
    )
    assert b"training on cpu" in shown
    assert equal


def begin_folds(parent: Parent, source: Source, folder: Path) -> tuple[Forked, list[Run]]:
    """Start a long reproduction, two folds at a time, and wait until both have saved; no validation is due."""
    recipe, out = folder / "one.toml", folder / "runs"
    recipe.write_text(RECIPE.replace("epochs = 12", "epochs = 2000").replace("validations = 2", "validations = 1"))
    corpus = ["--data", source.root, "--keyword", "beep", "--folds", 2, "--jobs", 2, "--device", "cpu"]
    process = parent(["reproduce", "--recipe", recipe, *corpus, "--out", out], folder / "output.log")
    folds = [Run(out / "one" / f"fold-{fold}" / "base") for fold in (0, 1)]
    wait_until(lambda: all(run.checkpoints.folders() for run in folds), patience_s=120)
    return process, folds


@pytest.mark.chaos
@pytest.mark.fault("P5")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_what_ends_a_reproduction_ends_its_folds_after_they_have_saved(
    parent: Parent, tiny_source: Source, tmp_path: Path, record_property: Record, number: signal.Signals
) -> None:
    """Two folds at a time, in processes of their own; not even killing the one above them leaves them behind."""
    process, folds = begin_folds(parent, tiny_source, tmp_path)
    stopwatch = Stopwatch()
    process.send_signal(number)
    code = process.wait(60)
    wait_until(lambda: not any(run.is_live for run in folds))
    took = stopwatch.read()
    states = [run.status.state for run in folds]
    saved = [run.checkpoints.steps()[-1] for run in folds]
    record_property(
        "outcome",
        f"{number.name} to `hark reproduce --jobs 2`: exit code {code} after {took.seconds:.1f} s, its folds "
        f"{' and '.join(states)} at steps {saved[0]} and {saved[1]}",
    )
    assert code == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    assert states == ["interrupted", "interrupted"]
    assert took.undisturbed_s < PATIENCE_S


@pytest.mark.chaos
@pytest.mark.fault("P5")
def test_sigusr1_to_a_reproduction_has_every_fold_save_now(
    parent: Parent, tiny_source: Source, tmp_path: Path, record_property: Record
) -> None:
    """Without being asked, each saves every four seconds, for its epochs are so short."""
    process, folds = begin_folds(parent, tiny_source, tmp_path)
    stopwatch = Stopwatch()
    for _ in range(WISHES):
        before = [run.checkpoints.steps()[-1] for run in folds]
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: all(run.checkpoints.steps()[-1] > at for run, at in zip(folds, before, strict=True)))  # noqa: B023
    took = stopwatch.read()
    going_on = sum(run.is_live for run in folds)
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    record_property(
        "outcome",
        f"{WISHES} SIGUSR1 to `hark reproduce --jobs 2`: both folds saved {WISHES} times in {took.seconds:.1f} s, "
        f"{going_on} of {len(folds)} went on",
    )
    assert took.undisturbed_s < 4.0 * (WISHES - 1)
    assert (going_on, code) == (len(folds), 143)
