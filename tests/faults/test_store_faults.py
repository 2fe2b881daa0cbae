"""What becomes of checkpoints when power, bits, rights, folders or space go."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hark.errors import NoValidCheckpoint
from hark.learning.dataset import Task
from hark.learning.devices import Machine
from hark.learning.training import TrainingConfig, train
from hark.network.spotter import Spotter
from hark.record.runs import Run
from hark.record.store import MANIFEST, CheckpointStore, Damage

SEED = 20260101
# Such a rate that the best of the nine steps is not among the newest three.
CONFIG = TrainingConfig(
    epochs=3, batch_size=16, schedule="constant", learning_rate=0.3, validations=9, save_every_s=0
)

CPU = Machine(device="cpu")

Record = Callable[[str, object], None]
NewSpotter = Callable[[], Spotter]

SAVES = """
import sys
from pathlib import Path
from hark.files import write_atomically
from hark.record.runs import Run
run = Run.open_or_create(Path(sys.argv[1]), about={})
with run.locked():
    for step in range(1, 7):
        run.log("train", step=step)
        run.event_log.flush()
        run.checkpoints.save(step, {"model": b"m" * 9000, "optimizer": b"o" * 50000}, info={}, score=1 / step)
    write_atomically(run.path("model.safetensors"), b"m" * 9000)
    run.finish()
"""


@pytest.fixture(scope="module")
def trained(tiny_task: Task, tiny_spotter: NewSpotter, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short training with four checkpoints: the three newest and the best. Tests work on copies of it."""
    run = Run.create(tmp_path_factory.mktemp("runs"), "trained", about={"kind": "train"})
    train(tiny_spotter(), tiny_task, CONFIG, run=run, machine=CPU)
    assert len(run.checkpoints.steps()) == 4
    return run


@pytest.fixture
def checkpoints(trained: Run, tmp_path: Path) -> Path:
    """A copy of its checkpoints."""
    return shutil.copytree(trained.checkpoints.folder, tmp_path / "checkpoints")


CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (\d+)", re.M)


def deeds(trace: str) -> list[tuple[str, str]]:
    """What a process did to files and folders, in order: write, fsync or rename, and the path, or the new one."""
    done, paths = list[tuple[str, str]](), dict[str, str]()
    for name, arguments, result in CALL.findall(trace):
        quoted, descriptor = re.findall(r'"([^"]*)"', arguments), arguments.partition(",")[0]
        if name in ("open", "openat"):
            paths[result] = quoted[0]
        elif name in ("write", "fsync", "fdatasync"):
            done.append(("write" if name == "write" else "fsync", paths.get(descriptor, "")))
        elif name.startswith("rename"):
            done.append(("rename", quoted[-1]))
    return done


@pytest.mark.fault("F3")
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: apt-get install strace")
def test_nothing_gets_its_name_before_it_is_on_the_disk(tmp_path: Path, record_property: Record) -> None:
    """The system calls of six saves: write, fsync the file, fsync the folder, rename, fsync the parent."""
    run, log = tmp_path / "run", tmp_path / "calls"
    command = ["strace", "-f", "-e", "trace=file,desc", "-o", log, sys.executable, "-B", "-c", SAVES, run]
    traced = subprocess.run(command, capture_output=True, text=True, check=False)
    if "ptrace" in traced.stderr:
        pytest.skip(f"strace may not trace here: {traced.stderr.strip()}")
    done = deeds(log.read_text())
    names = [Path(path) for deed, path in done if deed == "rename"]
    checkpoints = [name for name in names if name.parent.name == "checkpoints" and name.name.startswith("step-")]
    assert len(checkpoints) == 6
    for name in checkpoints:
        temporary = name.with_name(f".tmp-{name.name}")
        for file in ("model", "optimizer"):
            assert is_order([*durably(temporary / file), *durably(temporary / MANIFEST)], done)
        last = [*durably(temporary / MANIFEST), ("fsync", str(temporary)), ("rename", str(name))]
        assert is_order([*last, ("fsync", str(name.parent))], done)
    files = [name for name in names if name.parent == run]
    assert {name.name for name in files} == {"run.json", "config.json", "model.safetensors"}
    for name in files:
        (temporary,) = {path for _, path in done if Path(path).name.startswith(f".tmp-{name.name}-")}
        assert is_order([*durably(Path(temporary)), ("rename", str(name)), ("fsync", str(run))], done)
    record_property(
        "outcome", f"{len(checkpoints)} checkpoints and {len(files)} files are synced before they get their names"
    )


def is_order(wanted: list[tuple[str, str]], done: list[tuple[str, str]]) -> bool:
    """Whether each deed was done after the one before it; of several writes to a file the last one counts."""
    at = -1
    for deed in wanted:
        later = [place for place, other in enumerate(done) if other == deed and place > at]
        if not later or (deed[0] == "write" and done.index(deed) < at):
            return False
        at = later[-1] if deed[0] == "write" else later[0]
    return True


def durably(file: Path) -> list[tuple[str, str]]:
    """How a file gets onto the disk."""
    return [("write", str(file)), ("fsync", str(file))]


@pytest.mark.fault("F6")
def test_every_flipped_bit_and_every_cut_is_found_and_the_previous_checkpoint_is_taken(
    checkpoints: Path, record_property: Record
) -> None:
    """1,000 flips and 200 cuts over every file of the newest checkpoint of a training, the manifest included."""
    newest, previous = (CheckpointStore(checkpoints).steps()[-1 - back] for back in (0, 1))
    folder = checkpoints / f"step-{newest:08d}"
    files = sorted(folder.iterdir())
    assert len(files) == 4
    chance = random.Random(SEED)
    found = {"flips": 0, "cuts": 0}
    for trial in range(1200):
        path = files[trial % len(files)]
        good = path.read_bytes()
        kind = "flips" if trial < 1000 else "cuts"
        bad = flipped(good, chance) if kind == "flips" else good[: chance.randrange(len(good))]
        path.write_bytes(bad)
        told: list[Damage] = []
        taken = CheckpointStore(checkpoints, on_damage=told.append).latest()
        (damage,) = told
        assert path.name in damage.reason
        assert (damage.path / path.name).read_bytes() == bad, "the bad one is kept"
        assert taken is not None
        found[kind] += taken.step == previous
        damage.path.rename(folder)
        path.write_bytes(good)
    record_property(
        "outcome",
        f"{found['flips']:,} of 1,000 flipped bits and {found['cuts']} of 200 cuts in its {len(files)} files are "
        "found; the previous checkpoint is taken, the bad one kept",
    )
    assert found == {"flips": 1000, "cuts": 200}


def flipped(good: bytes, chance: random.Random) -> bytes:
    """The bytes with one bit changed."""
    bad = bytearray(good)
    bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
    return bytes(bad)


@pytest.mark.fault("F7")
def test_with_all_checkpoints_damaged_nothing_is_begun_anew(
    trained: Run, tiny_task: Task, tiny_spotter: NewSpotter, tmp_path: Path, record_property: Record
) -> None:
    """Exit code 3, each named with its reason, and nothing overwritten."""
    run = Run(shutil.copytree(trained.folder, tmp_path / "run"))
    chance = random.Random(SEED)
    damaged = sorted(run.checkpoints.folder.iterdir())
    for folder in damaged:
        path = chance.choice(sorted(folder.iterdir()))
        path.write_bytes(flipped(path.read_bytes(), chance))
    before = contents(run.folder)
    with pytest.raises(NoValidCheckpoint) as refused:
        train(tiny_spotter(), tiny_task, CONFIG, run=run, machine=CPU)
    named = [folder for folder in damaged if f"{folder.name}: " in str(refused.value)]
    changed = [path for path, content in contents(run.folder).items() if before.get(path) != content]
    record_property(
        "outcome",
        f"with all {len(damaged)} checkpoints damaged: exit code {refused.value.exit_code}, {len(named)} named "
        f"with their reasons, {len(changed)} files changed",
    )
    assert (refused.value.exit_code, named, changed) == (3, damaged, [])


def contents(folder: Path) -> dict[Path, bytes]:
    """All files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
