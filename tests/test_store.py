"""The checkpoint store: nothing that was saved is lost, nothing damaged is taken for good."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hark.errors import NoValidCheckpoint, RunError, UsageError
from hark.record import store as store_module
from hark.record.store import MANIFEST, CheckpointStore, Damage, read_checkpoint

FAULT_POINTS = (
    "make_folder",
    "write_files",
    "fsync_files",
    "write_manifest",
    "fsync_folder",
    "rename",
    "fsync_parent",
)
FILES: Mapping[str, bytes] = {"weights": b"\x00\x01\xfe\xff", "optimizer": b"momentum"}
SAVE = """
import sys
from pathlib import Path
from hark.record.store import CheckpointStore
CheckpointStore(Path(sys.argv[1])).save(2, {"weights": b"new"}, info={})
"""


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


@pytest.fixture
def two_saved(store: CheckpointStore) -> CheckpointStore:
    """Steps 1 and 2 are saved, with the same files."""
    for step in (1, 2):
        store.save(step, FILES, info={"config": "abc", "épochs": 1.5}, score=0.25)
    return store


def newest_step(store: CheckpointStore) -> int | None:
    checkpoint = store.latest()
    return checkpoint.step if checkpoint else None


@pytest.mark.fault("F2")
@pytest.mark.parametrize("point", FAULT_POINTS)
def test_a_kill_inside_a_save_never_loses_the_previous_checkpoint(
    store: CheckpointStore, point: str, record_property: Callable[[str, object], None]
) -> None:
    store.save(1, FILES, info={})
    environment = {**os.environ, "HARK_FAULT": f"after:{point}"}
    killed = subprocess.run([sys.executable, "-c", SAVE, str(store.folder)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    store.clean()
    newest = newest_step(store)
    record_property("outcome", f"killed after {point} of step 2: step {newest} is found whole")
    assert newest == (2 if point in ("rename", "fsync_parent") else 1)
    assert not list(store.folder.glob(".tmp-*"))
    store.save(2, FILES, info={})
    assert newest_step(store) == 2


def test_a_checkpoint_gets_its_name_only_when_all_in_it_is_durable(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(1, FILES, info={})
    done: list[str] = []
    fsync, rename = store_module.fsync, Path.rename

    def note_fsync(path: Path) -> None:
        done.append(f"fsync {path.name}")
        fsync(path)

    def note_rename(path: Path, target: Path) -> Path:
        done.append(f"rename to {target.name}")
        return rename(path, target)

    monkeypatch.setattr(store_module, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    store.save(2, FILES, info={})
    assert done == [
        "fsync weights",
        "fsync optimizer",
        f"fsync {MANIFEST}",
        "fsync .tmp-step-00000002",
        "rename to step-00000002",
        "fsync checkpoints",
    ]


def test_any_flipped_bit_is_found(store: CheckpointStore) -> None:
    """Every third bit of every file: each byte is hit two or three times, at all positions in turn."""
    folder = store.save(1, FILES, info={"config": "abc", "épochs": 1.5}, score=0.25)
    for path in (folder / name for name in (*FILES, MANIFEST)):
        good = path.read_bytes()
        for bit in range(0, 8 * len(good), 3):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            with pytest.raises(NoValidCheckpoint, match=path.name):
                store.latest()
        path.write_bytes(good)
    assert newest_step(store) == 1


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_every_truncation_is_found(store: CheckpointStore, name: str) -> None:
    path = store.save(1, FILES, info={}) / name
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(NoValidCheckpoint, match=name):
            store.latest()


def test_damage_falls_back_to_the_previous_checkpoint_and_is_told(two_saved: CheckpointStore) -> None:
    """However often: a damaged checkpoint of the same step gets a name of its own."""
    told: list[Damage] = []
    two_saved.on_damage = told.append
    for number in (1, 2):
        newest = two_saved.folder / "step-00000002"
        (newest / "weights").write_bytes(b"bad")
        assert newest_step(two_saved) == 1
        assert told[-1].path == two_saved.folder / f"step-00000002.{number}.corrupt"
        assert told[-1].reason == "weights has 3 bytes, expected 4"
        assert (told[-1].path / "weights").read_bytes() == b"bad"
        two_saved.save(2, FILES, info={})
    assert len(told) == 2


@settings(deadline=None)
@given(content=st.binary(max_size=200))
def test_no_bytes_at_all_pass_for_a_manifest(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = CheckpointStore(tmp_path_factory.mktemp("run") / "checkpoints")
    (store.folder / "step-00000001").mkdir(parents=True)
    (store.folder / "step-00000001" / MANIFEST).write_bytes(content)
    with pytest.raises(NoValidCheckpoint):
        store.latest()


@pytest.mark.parametrize("name", ["../weights", "/etc/hostname", "a/b", "..", "", MANIFEST])
def test_a_checkpoint_cannot_name_files_outside_its_folder(store: CheckpointStore, name: str) -> None:
    with pytest.raises(UsageError, match="expected a plain name"):
        store.save(1, {name: b""}, info={})
    folder = store.save(1, {}, info={})
    forged = store_module._Manifest(1, None, {}, {name: (0, "")})
    (folder / MANIFEST).write_bytes(forged.encode())
    with pytest.raises(NoValidCheckpoint, match="not a plain file name"):
        store.latest()


@pytest.mark.parametrize("name", ["weights", "MANIFEST.json"])
def test_a_file_of_gigabytes_is_not_read_to_find_that_it_is_damaged(store: CheckpointStore, name: str) -> None:
    folder = store.save(1, {"weights": b"1234"}, info={})
    with (folder / name).open("r+b") as file:
        file.truncate(1 << 40)  # holes, which take no space on the disk and would take a terabyte of memory
    with pytest.raises(NoValidCheckpoint, match=rf"{name} has {1 << 40} bytes, expected at most"):
        store.latest()


def test_a_missing_file_a_folder_in_its_place_and_a_renamed_checkpoint_are_damage(
    two_saved: CheckpointStore,
) -> None:
    newest = two_saved.folder / "step-00000002"
    (newest / "weights").unlink()
    with pytest.raises(NoValidCheckpoint, match="weights: No such file"):
        only(two_saved, newest).latest()
    (newest / "weights").mkdir()
    with pytest.raises(NoValidCheckpoint, match="weights is not a file"):
        two_saved.latest()
    newest.rename(two_saved.folder / "step-00000003")
    with pytest.raises(NoValidCheckpoint, match="its manifest is of step 2"):
        two_saved.latest()


def only(store: CheckpointStore, folder: Path) -> CheckpointStore:
    """The store with all other checkpoints removed."""
    for other in store.folder.iterdir():
        if other != folder:
            shutil.rmtree(other)
    return store


def test_when_all_are_damaged_each_is_named_with_its_reason_and_nothing_is_touched(
    two_saved: CheckpointStore,
) -> None:
    (two_saved.folder / "step-00000001" / "weights").write_bytes(b"")
    (two_saved.folder / "step-00000002" / MANIFEST).unlink()
    before = sorted(two_saved.folder.rglob("*"))
    for _ in range(2):
        with pytest.raises(NoValidCheckpoint) as error:
            two_saved.latest()
        assert "step-00000001: weights has 0 bytes, expected 4" in str(error.value)
        assert "step-00000002: MANIFEST.json: No such file" in str(error.value)
        assert error.value.exit_code == 3
    assert sorted(two_saved.folder.rglob("*")) == before


def test_a_run_whose_last_checkpoints_were_set_aside_does_not_look_new(two_saved: CheckpointStore) -> None:
    (two_saved.folder / "step-00000002" / "weights").write_bytes(b"")
    assert newest_step(two_saved) == 1
    shutil.rmtree(two_saved.folder / "step-00000001")
    with pytest.raises(NoValidCheckpoint, match="set aside before"):
        two_saved.latest()


def test_a_checkpoint_can_be_read_wherever_it_lies_and_is_left_as_it_is(two_saved: CheckpointStore) -> None:
    folder = two_saved.folder / "step-00000001"
    assert read_checkpoint(folder).files == FILES
    (folder / "weights").write_bytes(b"bad")
    for path, reason in ((folder, "weights has 3 bytes, expected 4"), (two_saved.folder, "a folder named step-")):
        with pytest.raises(NoValidCheckpoint, match=reason):
            read_checkpoint(path)
    assert (folder / "weights").read_bytes() == b"bad"


def test_nothing_saved_is_none(store: CheckpointStore) -> None:
    assert store.latest() is None
    assert store.best() is None
    assert store.steps() == []


def test_what_is_saved_is_what_is_read(two_saved: CheckpointStore) -> None:
    checkpoint = two_saved.latest()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.files, checkpoint.score) == (2, FILES, 0.25)
    assert checkpoint.info == {"config": "abc", "épochs": 1.5}


@settings(max_examples=30, deadline=None)
@given(scores=st.lists(st.sampled_from([None, 0.1, 0.2, 0.3, math.nan, math.inf]), min_size=1, max_size=6))
def test_the_newest_two_and_the_best_one_stay(
    scores: list[float | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    store = CheckpointStore(folder, keep=2)
    for step, score in enumerate(scores):
        store.save(step, {}, info={}, score=score)
    finite = {step: score for step, score in enumerate(scores) if score is not None and math.isfinite(score)}
    kept = set(range(len(scores))[-2:])
    assert kept <= set(store.steps())
    assert len(store.steps()) <= len(kept) + 1
    if finite:
        best = store.best()
        assert best is not None
        checkpoint = read_checkpoint(best)
        assert checkpoint.score == min(finite.values())
        assert checkpoint.step == max(step for step in finite if finite[step] == checkpoint.score), "the newest"
    else:
        assert store.best() is None


def test_a_step_saved_twice_keeps_both_until_they_are_old(store: CheckpointStore) -> None:
    store.save(7, {"weights": b"first"}, info={})
    store.save(7, {"weights": b"second"}, info={})
    checkpoint = store.latest()
    assert checkpoint is not None
    assert checkpoint.files == {"weights": b"second"}
    assert store.steps() == [7, 7]
    for step in (8, 9, 10):
        store.save(step, {}, info={})
    assert store.steps() == [8, 9, 10]


def test_a_step_before_the_newest_is_refused(two_saved: CheckpointStore) -> None:
    with pytest.raises(RunError, match="step 1 is before the saved step 2; start a new run"):
        two_saved.save(1, FILES, info={})


@pytest.mark.parametrize("failing", range(5))  # two files, the manifest, the folder, its parent
def test_a_full_disk_at_any_moment_is_an_error_that_costs_nothing_else(
    two_saved: CheckpointStore, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    calls = 0
    fsync = store_module.fsync

    def full(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing + 1:
            raise OSError(28, "No space left on device")
        fsync(path)

    monkeypatch.setattr(store_module, "fsync", full)
    with pytest.raises(RunError, match="checkpoints: No space left on device; free some space"):
        two_saved.save(3, FILES, info={})
    assert {1, 2} <= set(two_saved.steps())
    assert newest_step(two_saved) == (3 if failing == 4 else 2)
    assert not list(two_saved.folder.glob(".tmp-*"))
    two_saved.save(4, FILES, info={})
    assert newest_step(two_saved) == 4


def test_a_write_cut_short_by_a_limit_of_the_system_keeps_the_old_checkpoint(store: CheckpointStore) -> None:
    store.save(1, FILES, info={})
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2, 2))\n" + SAVE
    failed = subprocess.run(
        [sys.executable, "-B", "-c", script, str(store.folder)], capture_output=True, text=True, check=False
    )
    assert "RunError: " in failed.stderr
    assert "File too large" in failed.stderr
    assert newest_step(store) == 1


def test_a_vanished_run_folder_is_an_error_and_is_not_made_again(store: CheckpointStore) -> None:
    shutil.rmtree(store.folder.parent)
    with pytest.raises(RunError, match="put it back where it was"):
        store.save(1, FILES, info={})
    assert not store.folder.parent.exists()


def test_not_being_allowed_to_read_is_no_damage(
    two_saved: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(RunError, match="Permission denied; make it readable"):
        two_saved.latest()
    assert two_saved.steps() == [1, 2]


def test_a_disk_that_lies_is_found_out_before_older_checkpoints_go(
    two_saved: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_saved.keep = 1
    write_bytes = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: write_bytes(path, bytes(len(data))))
    with pytest.raises(RunError, match=r"just written, yet .* check the disk"):
        two_saved.save(3, FILES, info={})
    assert two_saved.steps() == [1, 2, 3]
    monkeypatch.undo()
    assert newest_step(two_saved) == 2
