"""What a tracker takes of an event, and what it can be made to confess about what it kept."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hark.cli.track import track
from hark.errors import UsageError
from hark.record import standing
from hark.record.runs import Run
from hark.record.tracking import BACKENDS, TensorBoard, fatal_error, metrics, require_installed, rows_written


@pytest.fixture
def run(tmp_path: Path) -> Run:
    about = {"setting": "base", "kind": "train", "fold": 0}
    return Run.create(tmp_path, "base-fold-0", about=about, config={"rate": 0.1})


def train(run: Run, *, steps: int = 3) -> None:
    run.log("began", step=0)
    for step in range(1, steps + 1):
        run.log("train", step=step, loss=1 / step)


def test_only_numbers_are_metrics() -> None:
    event = {"kind": "train", "step": 3, "time_s": 1.5, "wall": "…", "loss": 0.5, "clips": 2, "done": True}
    assert metrics(event) == {"train/loss": 0.5, "train/clips": 2.0}
    assert metrics({"kind": "warning", "step": None, "message": "x"}) == {}


def test_tensorboard_shows_every_metric_at_its_step_and_time(run: Run) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    train(run)
    for _ in range(2):  # a replay takes the place of what was there
        result = CliRunner().invoke(track, ["push", str(run.folder), "--to", "tensorboard"])
        assert result.stdout == "3 events sent to tensorboard\n"
    (path,) = run.path("trackers/tensorboard").iterdir()
    events = [event for event in loader.LegacyEventFileLoader(str(path)).Load() if event.summary.value]
    shown = [(event.step, event.summary.value[0].tag, event.summary.value[0].simple_value) for event in events]
    assert shown == [(step, "train/loss", pytest.approx(1 / step)) for step in (1, 2, 3)]
    assert all(abs(event.wall_time - time.time()) < 60 for event in events)


def test_tensorboard_confirms_what_the_operating_system_has_taken(run: Run) -> None:
    pytest.importorskip("tensorboard")
    run.path("trackers").mkdir()
    train(run)
    tensorboard = TensorBoard(run)
    first, second, third = (event for event in run.events() if event["kind"] == "train")
    tensorboard.log(first)
    tensorboard.log(second)
    assert tensorboard.confirmed == 0
    tensorboard.flush()
    (path,) = run.path("trackers/tensorboard").iterdir()
    assert (tensorboard.confirmed, path.read_bytes().count(b"train/loss")) == (2, 2)
    tensorboard.log(third)
    tensorboard.finish()
    assert (tensorboard.confirmed, path.read_bytes().count(b"train/loss")) == (3, 3)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_does_not_finish_in_silence_where_its_disk_is_full(run: Run) -> None:
    pytest.importorskip("tensorboard")
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    run.path("trackers").mkdir()
    train(run)
    tensorboard = TensorBoard(run)
    (path,) = run.path("trackers/tensorboard").iterdir()
    path.unlink()
    path.symlink_to(full)
    tensorboard.log(run.events()[-1])
    with pytest.raises(OSError, match="No space left on device"):
        tensorboard.finish()
    assert tensorboard.confirmed == 0
    for thread in threading.enumerate():
        if type(thread).__name__ == "_AsyncWriterThread":  # what it died of is no surprise, here and not later
            thread.join(10)


def test_wandb_is_offline_unless_the_user_wants_it_online_and_its_file_is_counted(run: Run) -> None:
    pytest.importorskip("wandb")
    train(run)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    pushed = subprocess.run(
        [sys.executable, "-m", "hark", "track", "push", str(run.folder), "--to", "wandb"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert pushed.stdout == "3 events sent to wandb\n"
    (written,) = run.path("trackers/wandb").glob("offline-run-*/run-*.wandb")
    content = written.read_bytes()
    assert b"base-fold-0" in content
    assert content.count(b"train/loss") >= 3
    assert rows_written(written) == standing.standing(run, "wandb").confirmed == 3
    assert run.about["tracker_url"] is None
    # Whatever is lost at the end of it is not counted.
    counts = list[int | None]()
    for length in range(0, len(content), 11):
        written.write_bytes(content[:length])
        counts.append(rows_written(written))
    assert counts == sorted(counts, key=lambda count: count or 0)
    assert set(counts) == {0, 1, 2, 3}


def a_row(number: int) -> bytes:
    """A row of history as W&B's messages have it."""
    wandb_messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    record = wandb_messages.Record()
    item = record.history.item.add()
    item.key, item.value_json = "step", str(number)
    return bytes(record.SerializeToString())


def leveldb(records: list[bytes]) -> bytes:
    """A log in LevelDB's format, written after its description: W&B's seven bytes, then fragments in blocks."""
    file = bytearray(b":W&B\xe1\xbe\x00")
    for record in records:
        rest, begun = record, False
        while rest or not begun:
            left = 32_768 - len(file) % 32_768
            if left < 7:
                file += bytes(left)
                continue
            fragment, rest = rest[: left - 7], rest[left - 7 :]
            place = {(False, False): 1, (False, True): 2, (True, True): 3, (True, False): 4}[begun, bool(rest)]
            file += struct.pack("<IHB", zlib.crc32(bytes([place]) + fragment), len(fragment), place) + fragment
            begun = True
    return bytes(file)


@given(
    sizes=st.lists(st.sampled_from([0, 1, 70_000]) | st.integers(32_680, 32_768), max_size=6),
    lost=st.integers(0, 200_000),
    flipped=st.none() | st.integers(7, 300_000).filter(lambda place: place % 32_768 < 32_762),  # no filling
)
def test_rows_are_counted_up_to_the_first_damage_whatever_their_size(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], lost: int, flipped: int | None
) -> None:
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    path = tmp_path_factory.mktemp("wandb") / "run.wandb"
    records = [record for size in sizes for record in (a_row(size), filler(messages, size))]
    content = leveldb(records)
    path.write_bytes(content)
    assert rows_written(path) == len(sizes)
    damaged = bytearray(content[: max(7, len(content) - lost)])
    if flipped is not None and flipped < len(damaged):
        damaged[flipped] ^= 1
    path.write_bytes(damaged)
    whole = [len(leveldb(records[: count + 1])) for count in range(0, len(records), 2)]
    end = min(len(damaged), len(damaged) if flipped is None else flipped)
    assert rows_written(path) == sum(length <= end for length in whole)


def filler(messages: object, size: int) -> bytes:
    """A record that is no row."""
    record = messages.Record()  # type: ignore[attr-defined]
    record.output_raw.line = "x" * size
    return bytes(record.SerializeToString())


def test_a_file_in_another_format_says_nothing_and_an_empty_one_says_no_rows(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    path = tmp_path / "run.wandb"
    path.write_bytes(b":W&B\xe1\xbe\x01" + leveldb([a_row(1)])[7:])
    assert rows_written(path) is None
    for beginning in (b"", b":W&B", b":W&B\xe1\xbe\x00"):
        path.write_bytes(beginning)
        assert rows_written(path) == 0


def test_a_fatal_error_is_found_in_the_log_that_wandb_keeps_to_itself(tmp_path: Path) -> None:
    log = tmp_path / "debug-internal.log"
    assert fatal_error(log) is None
    usual = [{"level": "INFO", "msg": "stream: started"}, {"level": "ERROR", "msg": "api: HTTP error"}, 7]
    log.write_text("".join(json.dumps(line) + "\n" for line in usual) + "panic: not JSON\n")
    assert fatal_error(log) is None
    with log.open("a") as file:
        file.write(json.dumps({"level": "ERROR+4", "msg": "filestream: fatal error: 404 Not Found"}) + "\n")
    assert fatal_error(log) == "filestream: fatal error: 404 Not Found"


def test_a_tracker_that_is_not_installed_is_named_with_the_way_to_get_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in BACKENDS:
        monkeypatch.setitem(sys.modules, name, None)
        result = CliRunner().invoke(track, ["push", str(run.folder), "--to", name])
        assert str(result.exception) == (
            f'{name} is not installed; install it with: pip install "hark-kws[track]"'
        )


def test_asking_whether_a_tracker_is_installed_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    require_installed("wandb")
    assert "wandb" not in sys.modules


def test_an_unknown_tracker_is_told_which_are_known() -> None:
    with pytest.raises(UsageError, match=r"tracker 'mlflow': expected one of tensorboard, wandb"):
        require_installed("mlflow")


@pytest.fixture
def status_of(run: Run) -> Callable[..., str]:
    def ask(*options: str) -> str:
        return CliRunner().invoke(track, ["status", str(run.folder), *options]).stdout

    return ask


def test_the_command_shows_what_each_tracker_has(run: Run, status_of: Callable[..., str]) -> None:
    assert status_of() == ""
    run.path("trackers").mkdir()
    train(run)
    standing.note(run, "tensorboard", confirmed=3)
    standing.note(run, "wandb", confirmed=1, reason="killed by SIGKILL", url="https://example.org/run")
    assert status_of() == (
        "tensorboard has all 3 events\n"
        "wandb lost up to 2 of 3 events (killed by SIGKILL); "
        f"replay with: hark track push {run.folder} --to wandb  https://example.org/run\n"
    )
    first, second = json.loads(status_of("--json"))
    assert (first["tracker"], first["lost"], first["confirmed"], first["holder"]) == ("tensorboard", 0, 3, None)
    assert (second["tracker"], second["lost"], second["url"]) == ("wandb", 2, "https://example.org/run")
