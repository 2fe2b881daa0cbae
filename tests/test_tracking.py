"""Trackers see what the event log holds, and whatever becomes of them, the run does not feel it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from hark import tracking
from hark.cli.track import track
from hark.errors import RunError, UsageError
from hark.events import Event
from hark.runs import Run

# The tracker's process, with a tracker that fails on demand: sys.argv = [-, run, where].
FAKE = """
import os, signal, sys, time
from pathlib import Path
from hark import tracking
from hark.runs import Run

class Fake:
    url = None
    def __init__(self, run):
        self.where, self.count = sys.argv[2], 0
        self.fail("init")
    def log(self, event):
        self.count += 1
        self.fail(f"log {self.count}")
    def finish(self):
        self.fail("finish")
    def fail(self, place):
        if self.where == place:
            raise ConnectionError("no such host")
        if self.where == f"exit at {place}":
            sys.exit(0)
        if self.where == f"kill at {place}":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.where == f"hang at {place}":
            time.sleep(3)

run = Run.open(Path(sys.argv[1]))
tracking.follow(run, to="fake", open_backend=Fake, ended=tracking.standard_input_closed)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    about = {"setting": "base", "kind": "train", "fold": 0}
    return Run.create(tmp_path, "base-fold-0", about=about, config={"rate": 0.1})


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, the tracker's process may need a second only to start."""
    monkeypatch.setattr(tracking, "PARTING_S", 30.0)


class Listening:
    """A tracker that remembers what it was told."""

    url = "https://example.org/run"

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.finished = 0

    def log(self, event: Event) -> None:
        """Remember it."""
        self.events.append(event)

    def finish(self) -> None:
        """Count the ends."""
        self.finished += 1


def train(run: Run, *, steps: int = 5) -> None:
    run.log("started", step=0)
    for step in range(1, steps + 1):
        run.log("train", step=step, loss=1 / step)


def train_with_fake(run: Run, where: str) -> list[Event]:
    """Train while mirroring to a tracker that fails at a place; return what was logged besides."""
    with tracking.mirror(run, to="fake", command=(sys.executable, "-c", FAKE, str(run.folder), where)):
        train(run)
    *trained, last = run.events()
    if last["kind"] == "train":
        return []
    assert [event["step"] for event in trained] == [0, 1, 2, 3, 4, 5]
    return [last]


def test_a_tracker_gets_each_event_with_numbers_once_those_that_come_later_too(run: Run) -> None:
    train(run, steps=3)
    backend, looks = Listening(), iter((False, False, True))

    def ended() -> bool:
        run.log("train", step=4, loss=0.0)
        return next(looks)

    tracking.follow(run, to="fake", open_backend=lambda _: backend, ended=ended)
    assert [event["step"] for event in backend.events] == [1, 2, 3, 4, 4, 4]
    assert backend.finished == 1
    assert run.read_json("trackers/fake.json") == {"state": "finished", "events": 7}


def test_the_address_of_the_trackers_run_is_kept_with_the_run(run: Run) -> None:
    tracking.follow(run, to="fake", open_backend=lambda _: Listening(), ended=lambda: True)
    assert run.about["tracker_url"] == Listening.url


def test_only_numbers_are_metrics() -> None:
    event = {"kind": "train", "step": 3, "time_s": 1.5, "wall": "…", "loss": 0.5, "clips": 2, "done": True}
    assert tracking.metrics(event) == {"train/loss": 0.5, "train/clips": 2.0}
    assert tracking.metrics({"kind": "warning", "step": None, "message": "x"}) == {}


@pytest.mark.usefixtures("patience")
def test_a_tracker_that_works_leaves_no_trace_in_the_log(run: Run) -> None:
    assert train_with_fake(run, "nowhere") == []


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    ("where", "lost", "reason"),
    [
        ("init", 5, "ConnectionError: no such host"),
        ("log 3", 3, "ConnectionError: no such host"),
        ("finish", 5, "ConnectionError: no such host"),
        ("exit at log 3", 3, "without a word"),
        ("exit at finish", 5, "without a word"),
        ("kill at log 3", 5, "without a word"),
    ],
)
def test_a_tracker_that_fails_is_one_warning_with_what_it_lost_and_how_to_replay_it(
    run: Run, where: str, lost: int, reason: str
) -> None:
    """A killed process cannot count to the end: what it had not noted yet may be lost, and is counted so."""
    (warning,) = train_with_fake(run, where)
    assert warning["kind"] == "warning"
    assert warning["message"].startswith(f"fake died ({reason}) and lost up to ")
    assert warning["message"].endswith(f" of 5 events; replay with: hark track push {run.folder} --to fake")
    told = int(warning["message"].split("lost up to ")[1].split()[0])
    assert told == lost if not where.startswith("kill") else 3 <= told <= lost


def test_a_tracker_that_hangs_costs_a_second_and_is_noted(run: Run) -> None:
    began_s = time.monotonic()
    (note,) = train_with_fake(run, "hang at finish")
    assert time.monotonic() - began_s < 2.9  # it hangs for 3
    assert note["kind"] == "note"
    assert note["message"].startswith("fake has yet to confirm 5 of 5 events; if they do not arrive, replay")


def test_a_tracker_that_cannot_even_start_is_a_warning(run: Run) -> None:
    with tracking.mirror(run, to="fake", command=("/no/such/program",)):
        train(run)
    assert "lost up to 5 of 5 events" in run.events()[-1]["message"]


def test_a_run_folder_that_cannot_be_written_does_not_turn_the_tracker_into_an_error(run: Run) -> None:
    run.path("trackers").touch()
    with tracking.mirror(run, to="fake"):
        run.path("events.jsonl").mkdir()


def test_an_error_of_the_training_passes_through(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), tracking.mirror(run, to="fake", command=("/no/such/program",)):
        raise ZeroDivisionError


def test_when_the_training_is_killed_the_tracker_still_gets_the_rest(run: Run) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from hark import tracking
from hark.runs import Run
run = Run.open(Path({str(run.folder)!r}))
with tracking.mirror(run, to="fake", command=(sys.executable, "-c", {FAKE!r}, str(run.folder), "nowhere")):
    run.log("train", step=1, loss=0.5)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    progress = run.path("trackers/fake.json")
    assert eventually(lambda: progress.exists() and json.loads(progress.read_bytes())["state"] == "finished")
    assert json.loads(progress.read_bytes())["events"] == 1


def eventually(condition: Callable[[], bool], *, limit_s: float = 10.0) -> bool:
    end_s = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.02)
    return condition()


def test_tensorboard_shows_every_metric_at_its_step_and_time(run: Run) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    train(run, steps=3)
    for _ in range(2):  # a replay takes the place of what was there
        result = CliRunner().invoke(track, ["push", str(run.folder), "--to", "tensorboard"])
        assert result.stdout == "3 events sent to tensorboard\n"
    (path,) = run.path("trackers/tensorboard").iterdir()
    events = [event for event in loader.LegacyEventFileLoader(str(path)).Load() if event.summary.value]
    shown = [(event.step, event.summary.value[0].tag, event.summary.value[0].simple_value) for event in events]
    assert shown == [(step, "train/loss", pytest.approx(1 / step)) for step in (1, 2, 3)]
    assert all(abs(event.wall_time - time.time()) < 60 for event in events)


@pytest.mark.usefixtures("patience")
def test_tensorboard_is_fed_by_its_own_process_while_the_run_goes_on(run: Run) -> None:
    pytest.importorskip("tensorboard")
    with tracking.mirror(run, to="tensorboard"):
        train(run)
    assert run.read_json("trackers/tensorboard.json") == {"state": "finished", "events": 6}
    assert run.events()[-1]["kind"] == "train"


def test_wandb_is_offline_unless_the_user_wants_it_online(run: Run) -> None:
    pytest.importorskip("wandb")
    train(run, steps=3)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    script = (
        "import sys; from pathlib import Path; from hark import tracking; from hark.runs import Run; "
        "print(tracking.push(Run.open(Path(sys.argv[1])), to='wandb'))"
    )
    pushed = subprocess.run(
        [sys.executable, "-c", script, str(run.folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert pushed.stdout == "3\n"
    (written,) = run.path("trackers/wandb").glob("offline-run-*/run-*.wandb")
    content = written.read_bytes()
    assert b"base-fold-0" in content
    assert content.count(b"train/loss") >= 3
    assert run.about["tracker_url"] is None


def test_a_push_that_fails_says_why_and_how_to_try_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: Run) -> tracking.Backend:
        raise ConnectionError("no such host")

    monkeypatch.setattr(tracking, "BACKENDS", {"wandb": unreachable})
    with pytest.raises(RunError, match=r"wandb failed \(no such host\); try again with: hark track push"):
        tracking.push(run, to="wandb")


def test_an_unknown_tracker_is_told_which_are_known(run: Run) -> None:
    with pytest.raises(UsageError, match=r"tracker 'mlflow': expected one of tensorboard, wandb"):
        tracking.push(run, to="mlflow")


def test_a_tracker_that_is_not_installed_is_named_with_the_way_to_get_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("wandb", "tensorboard.compat.proto"):
        monkeypatch.setitem(sys.modules, package, None)
    for name in tracking.BACKENDS:
        result = CliRunner().invoke(track, ["push", str(run.folder), "--to", name])
        assert str(result.exception) == (
            f'{name} is not installed; install it with: pip install "hark-kws[track]"'
        )
