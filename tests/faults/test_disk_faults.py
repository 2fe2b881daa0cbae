"""A training whose disk fills up, or whose folder is taken away: waited out, or told within one interval."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hark_processes import Parent

from hark.learning.dataset import Source
from hark.record.runs import Run

Record = Callable[[str, object], None]

INTERVAL_S = 0.2
FULL_AT, FREED_AT = 20, 35
RECIPE = """
[stages.base]
kind = "train"
network = {channels = 2, kernel = [5, 20], stride = [4, 16], hidden = [6, 6], dropout = 0.2}
training = {epochs = 14, batch_size = 16, learning_rate = 0.02, validations = 1}
"""

# What is run in the process of the training before it begins.
AFTER_EACH_STEP = """
import hark.learning.trainee
advance = hark.learning.trainee.Trainee.advance

def advance_and_more(trainee):
    advance(trainee)
    after(trainee.step)

hark.learning.trainee.Trainee.advance = advance_and_more
"""
ON_A_SMALL_DISK = """
import atexit, ctypes, json, shutil, subprocess, time
from contextlib import suppress
from hark.record.store import CheckpointStore, read_checkpoint
from pathlib import Path

CLONE_NEWNS = 0x20000  # what is mounted from here on is seen by this process alone
assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", disk], check=True)
atexit.register(shutil.copytree, disk, outside)
filler = Path(disk, "filler")

def after(step):
    if step == full_at:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass
    if full_at <= step < freed_at:
        time.sleep(0.05)
    if step == freed_at - 1:
        folders = sorted(Path(disk).glob("*/fold-0/base/checkpoints/step-*"))
        Path(verified).write_text(json.dumps([read_checkpoint(folder).step for folder in folders]))
    if step == freed_at:
        filler.unlink()
"""


def can_mount() -> bool:
    """Whether this process may mount a small disk of its own."""
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def arguments(tiny_source: Source, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """One training on the tiny corpus; only where its run goes is missing."""
    recipe = tmp_path_factory.mktemp("recipes") / "one.toml"
    recipe.write_text(RECIPE)
    corpus = ["--data", tiny_source.root, "--keyword", "beep", "--folds", 2]
    return ["train", recipe, *corpus, "--device", "cpu", "--set", f"training.save_every_s={INTERVAL_S}"]


def base(out: Path) -> Run:
    """The run of the training."""
    return Run.open(out / "one" / "fold-0" / "base")


@pytest.fixture(scope="module")
def undisturbed(parent: Parent, arguments: list[object], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The SHA-256 of the model that the training gives when nothing happens."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert parent([*arguments, "--out", out], out / "output.log").wait(60) == 0
    return hash_of(base(out))


def hash_of(run: Run) -> str:
    """The SHA-256 of its model."""
    return hashlib.sha256(run.path("model.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def on_a_small_disk(
    parent: Parent, arguments: list[object], tmp_path: Path
) -> Callable[[int], tuple[int, Path, list[int], str]]:
    """Trains on a disk of 24 MB that is full from one step to another.

    Gives the exit code, where what was on the disk now lies, the steps of the checkpoints that verified while
    it was full, and what was said.
    """
    if not can_mount():
        pytest.skip("may not mount a small disk here: needs root and CAP_SYS_ADMIN")

    def train(freed_at: int) -> tuple[int, Path, list[int], str]:
        names = {name: str(tmp_path / name) for name in ("disk", "outside", "verified")}
        before = "\n".join(f"{name} = {value!r}" for name, value in names.items())
        before += f"\nfull_at, freed_at = {FULL_AT}, {freed_at}\n" + ON_A_SMALL_DISK + AFTER_EACH_STEP
        (tmp_path / "disk").mkdir()
        output = tmp_path / "output.log"
        code = parent([*arguments, "--out", tmp_path / "disk"], output, before=before).wait(60)
        verified = tmp_path / "verified"
        steps = json.loads(verified.read_text()) if verified.exists() else []
        return code, tmp_path / "outside", steps, output.read_text()

    return train


@pytest.mark.fault("F4")
def test_a_full_disk_is_waited_out(
    on_a_small_disk: Callable[[int], tuple[int, Path, list[int], str]],
    undisturbed: str,
    record_property: Record,
) -> None:
    code, out, verified, said = on_a_small_disk(FREED_AT)
    assert code == 0, said
    run = base(out)
    saved = [event["step"] for event in run.events() if event["kind"] == "saved"]
    warned_s = [
        e["time_s"] for e in run.events() if e["kind"] == "warning" and "could not be saved" in e["message"]
    ]
    record_property(
        "outcome",
        f"training goes on for {FREED_AT - FULL_AT} steps on a full disk, {len(verified)} older checkpoints stay "
        f"whole, {len(warned_s)} warnings, saved again from step {min(s for s in saved if s >= FREED_AT)} on; the "
        f"model is {'' if hash_of(run) == undisturbed else 'not '}that of a roomy disk",
    )
    assert hash_of(run) == undisturbed
    assert verified, "the older ones verify while the disk is full"
    assert max(verified) <= FULL_AT
    assert not [step for step in saved if FULL_AT < step < FREED_AT]
    assert warned_s
    assert all(later - earlier >= INTERVAL_S - 0.01 for earlier, later in pairwise(warned_s)), "one an interval"
    assert said.count("could not be saved, training goes on") == len(warned_s)


@pytest.mark.fault("F4")
def test_a_training_that_ends_on_a_full_disk_says_so_and_goes_on_when_there_is_space(
    parent: Parent,
    arguments: list[object],
    on_a_small_disk: Callable[[int], tuple[int, Path, list[int], str]],
    undisturbed: str,
    tmp_path: Path,
    record_property: Record,
) -> None:
    code, out, _, said = on_a_small_disk(1_000_000)
    saved = base(out).checkpoints.steps()[-1]
    message = said.splitlines()[-1]
    assert message.startswith("hark: step 42 of 42 could not be saved: ")
    assert message.endswith(f"free some space and run the same command again, which goes on from step {saved}")
    (out / "filler").unlink()
    again = parent([*arguments, "--out", out], tmp_path / "again.log").wait(60)
    equal = hash_of(base(out)) == undisturbed
    record_property(
        "outcome",
        f"at its end on a full disk the training exits with {code}; with space again it goes on from step {saved} "
        f"and ends with {'the same' if equal else 'another'} model",
    )
    assert (code, again, equal) == (5, 0, True)


HARMED_AT = 8
HARMS = {
    "read-only": "run.chmod(0o555); (run / 'checkpoints').chmod(0o555); os.getuid() or os.seteuid(65534)",
    "moved away": "run.rename(run.with_name('elsewhere'))",
    "replaced": "run.rename(run.with_name('elsewhere')); shutil.copytree(run.with_name('elsewhere'), run)",
    "input/output error": "os.fsync = lambda descriptor: fail(5)",
}
CAUSES = {
    "read-only": "Permission denied; give yourself the right to it",
    "moved away": "moved, removed or replaced while a process was at work in it",
    "replaced": "moved, removed or replaced while a process was at work in it",
    "input/output error": "Input/output error; check the disk",
}
HARM = """
import os, shutil
from pathlib import Path

run = Path(out, "one", "fold-0", "base")
steps = open(reached, "w")

def fail(number):
    raise OSError(number, os.strerror(number))

def after(step):
    print(step, file=steps, flush=True)
    if step == harmed_at:
        {harm}
"""


@pytest.mark.fault("F5")
@pytest.mark.parametrize("harm", HARMS)
def test_a_run_that_cannot_be_written_ends_within_an_interval_and_says_why(
    parent: Parent, arguments: list[object], tmp_path: Path, record_property: Record, harm: str
) -> None:
    """Each step is saved, so the interval is one step."""
    names = {"out": str(tmp_path / "runs"), "reached": str(tmp_path / "reached"), "harmed_at": HARMED_AT}
    before = "\n".join(f"{name} = {value!r}" for name, value in names.items())
    before += HARM.format(harm=HARMS[harm]) + AFTER_EACH_STEP
    often = ["--set", "training.save_every_s=0.0"]
    code = parent([*arguments, *often, "--out", tmp_path / "runs"], tmp_path / "output.log", before=before).wait(
        60
    )
    message = (tmp_path / "output.log").read_text().splitlines()[-1]
    late = int((tmp_path / "reached").read_text().split()[-1]) - HARMED_AT
    record_property("outcome", f"{harm}: exit code {code} {late} steps later, with path and cause")
    assert code == 1
    assert late <= 1
    assert message.startswith(f"hark: {tmp_path / 'runs' / 'one' / 'fold-0' / 'base'}")
    assert CAUSES[harm] in message
