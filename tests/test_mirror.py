"""Trackers get what the event log holds, and whatever becomes of them, the run does not feel it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hark.errors import RunBusy, RunError, UsageError
from hark.record import mirror, standing, tracking
from hark.record.events import Event
from hark.record.locking import held, holder_of
from hark.record.runs import Run
from hark.record.standing import Standing, note

FAKE = Path(__file__).with_name("fake_tracker.py")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    about = {"setting": "base", "kind": "train", "fold": 0}
    return Run.create(tmp_path, "base-fold-0", about=about, config={"rate": 0.1})


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, the tracker's process may need a second only to start."""
    monkeypatch.setattr(mirror, "PARTING_S", 300.0)


class Listening:
    """A tracker that remembers what it was told."""

    url = "https://example.org/run"

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.confirmed = self.finished = 0

    def log(self, event: Event) -> None:
        """Remember it."""
        self.events.append(event)

    def flush(self) -> None:
        """Confirm what it remembers."""
        self.confirmed = len(self.events)

    def finish(self) -> None:
        """Count the ends."""
        self.finished += 1


def train(run: Run, *, steps: int = 5) -> None:
    run.log("began", step=0)
    for step in range(1, steps + 1):
        run.log("train", step=step, loss=1 / step)


def fake(where: str, *, confirms: str = "at-once", linger_s: int = 60) -> tuple[str, ...]:
    """The command of a tracker that does something at a place."""
    return (sys.executable, str(FAKE), where, confirms, str(linger_s))


def wandb_of(run: Run) -> Standing:
    """What the tracker has by now."""
    return standing.standing(run, "wandb")


def told_of(run: Run) -> list[Event]:
    """What the run's log tells of trackers."""
    return [event for event in run.events() if "tracker" in event]


def eventually(condition: Callable[[], object], *, limit_s: float = 300.0) -> bool:
    """Whether something comes true in time."""
    end_s = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.02)
    return bool(condition())


def test_a_tracker_gets_each_event_with_numbers_once_those_that_come_later_too(run: Run) -> None:
    run.path("trackers").mkdir()
    train(run, steps=3)
    backend, looks = Listening(), iter((False, False, True))

    def ended() -> bool:
        run.log("train", step=4, loss=0.0)
        return next(looks)

    assert mirror.follow(run, to="wandb", open_backend=lambda _: backend, ended=ended) == 6
    assert [event["step"] for event in backend.events] == [1, 2, 3, 4, 4, 4]
    assert backend.finished == 1
    assert (wandb_of(run).confirmed, wandb_of(run).lost) == (6, 0)


def test_the_address_of_the_trackers_run_is_kept_with_the_run(run: Run) -> None:
    run.path("trackers").mkdir()
    mirror.follow(run, to="wandb", open_backend=lambda _: Listening(), ended=lambda: True)
    assert run.about["tracker_url"] == wandb_of(run).url == Listening.url


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("confirms", ["at-once", "at-the-end"])
def test_a_tracker_that_works_leaves_no_trace_in_the_log(run: Run, confirms: str) -> None:
    with mirror.mirrors(run, ["wandb"], command=fake("nowhere", confirms=confirms)):
        train(run)
    assert told_of(run) == []
    assert str(wandb_of(run)) == "wandb has all 5 events"


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    ("where", "confirms", "reason"),
    [
        ("raise at init", "at-once", "ConnectionError: no such host"),
        ("raise at log 3", "at-once", "ConnectionError: no such host"),
        ("raise BaseException at log 3", "at-once", "BaseException: not even an Exception"),
        ("raise at finish", "at-the-end", "ConnectionError: no such host"),
        ("exit at finish", "at-the-end", "ended without a word, see "),
        ("die at log 3", "at-once", "killed by SIGKILL"),
    ],
)
def test_a_tracker_that_fails_is_one_warning_with_what_it_lost_and_how_to_replay_it(
    run: Run, capsys: pytest.CaptureFixture[str], where: str, confirms: str, reason: str
) -> None:
    """Events go over in groups, as they are found: of a group that failed none is confirmed."""
    with mirror.mirrors(run, ["wandb"], command=fake(where, confirms=confirms)):
        train(run, steps=2)
        assert where.endswith("init") or eventually(lambda: wandb_of(run).confirmed == 2 or confirms != "at-once")
        train(run, steps=3)
    (warning,) = told_of(run)
    has = wandb_of(run)
    assert (warning["kind"], warning["tracker"], warning["message"]) == ("warning", "wandb", str(has))
    assert has.lost == (3 if "log 3" in where else 5)
    assert has.reason.startswith(reason) or (has.reason == "" and reason in str(has))
    assert str(has).endswith(f"; replay with: hark track push {run.folder} --to wandb")
    assert capsys.readouterr().err == f"{run.folder}: warning: {has}\n"


def test_a_tracker_that_hangs_is_left_behind_named_and_ended_when_its_time_is_over(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirror.mirrors(run, ["wandb"], command=fake("hang at log 3", linger_s=1)):
        train(run)
        assert eventually(run.path("trackers/reached").exists)
        holder = wandb_of(run).holder
        monkeypatch.setattr(mirror, "PARTING_S", 0.0)
    (told,) = told_of(run)
    assert holder and told["kind"] == "note"
    assert told["message"] == (
        f"wandb goes on as process {holder.pid}, 10 minutes at most; see: hark track status {run.folder}"
    )
    assert eventually(lambda: wandb_of(run).holder is None)
    assert "lost up to 5 of 5 events (TimeoutError: it had not ended 1 s after the training)" in str(wandb_of(run))


def test_what_does_not_even_heed_its_interruption_is_ended_with_its_stack_on_record(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = f"""
import runpy, signal, sys
from hark.record import mirror
mirror.GRACE_S = 0.5
signal.alarm = lambda seconds: None
sys.argv[0] = {str(FAKE)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    monkeypatch.setattr(mirror, "PARTING_S", 0.0)
    with mirror.mirrors(run, ["wandb"], command=(sys.executable, "-c", deaf, "hang at log 3", "at-once", "1")):
        train(run)
        assert eventually(run.path("trackers/reached").exists)
    assert eventually(lambda: wandb_of(run).holder is None)
    assert "in reach" in run.path("trackers/wandb.log").read_text()
    assert f"ended without a word, see {run.folder}/trackers/wandb.log" in str(wandb_of(run))


@pytest.mark.usefixtures("patience")
def test_a_stopped_process_is_set_going_at_the_end_and_nothing_is_lost(run: Run) -> None:
    with mirror.mirrors(run, ["wandb"], command=fake("nowhere")):
        train(run, steps=2)
        assert eventually(lambda: wandb_of(run).confirmed == 2)
        holder = wandb_of(run).holder
        assert holder and holder.pid
        os.kill(holder.pid, signal.SIGSTOP)
        train(run, steps=3)
    assert told_of(run) == []
    assert str(wandb_of(run)) == "wandb has all 5 events"


@pytest.mark.usefixtures("patience")
def test_the_trackers_have_one_time_together_to_part(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second does not wait again for as long as the first did."""
    waited: list[float] = []

    def wait(process: subprocess.Popen[bytes], timeout: float) -> int:
        waited.append(timeout)
        time.sleep(0.05)
        raise subprocess.TimeoutExpired("tracker", timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    with mirror.mirrors(run, ["tensorboard", "wandb"], command=fake("hang at init", linger_s=1)):
        pass
    first, second = waited
    assert first <= mirror.PARTING_S
    assert second <= first - 0.05


def test_a_tracker_that_cannot_even_start_is_a_warning_at_once(run: Run) -> None:
    with mirror.mirrors(run, ["wandb"], command=("/no/such/program",)):
        (warning,) = told_of(run)
        train(run)
    assert warning["message"] == (
        "nothing is mirrored to wandb ([Errno 2] No such file or directory: '/no/such/program'); "
        f"replay later with: hark track push {run.folder} --to wandb"
    )
    assert told_of(run) == [warning]
    assert wandb_of(run).lost == 5


def test_a_run_folder_that_cannot_be_written_does_not_turn_the_tracker_into_an_error(run: Run) -> None:
    run.path("trackers").touch()
    with mirror.mirrors(run, ["wandb", "tensorboard"]):
        run.path("events.jsonl").unlink()
        run.path("events.jsonl").mkdir()


def test_an_error_of_the_training_passes_through(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), mirror.mirrors(run, ["wandb"], command=("/no/such/program",)):
        raise ZeroDivisionError


def test_when_the_training_is_killed_the_tracker_still_gets_the_rest(run: Run) -> None:
    script = f"""
import os, signal
from pathlib import Path
from hark.record import mirror
from hark.record.runs import Run
run = Run.open(Path({str(run.folder)!r}))
with mirror.mirrors(run, ["wandb"], command={fake("nowhere")!r}):
    run.log("train", step=1, loss=0.5)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert eventually(lambda: str(wandb_of(run)) == "wandb has all 1 events")


@pytest.mark.usefixtures("patience")
def test_the_next_start_of_a_run_feeds_a_tracker_only_when_the_last_one_has_let_go(run: Run) -> None:
    run.path("trackers").mkdir()
    with held(standing.lock(run, "wandb")):
        note(run, "wandb", confirmed=77)
        with pytest.MonkeyPatch.context() as patch, mirror.mirrors(run, ["wandb"], command=fake("nowhere")):
            train(run)
            patch.setattr(mirror, "PARTING_S", 1.5)  # more than it would need to overtake
        assert [event["kind"] for event in told_of(run)] == ["note"]
        assert wandb_of(run).confirmed == 77
    assert eventually(lambda: str(wandb_of(run)) == "wandb has all 5 events" and not wandb_of(run).holder)


@pytest.mark.usefixtures("patience")
def test_what_an_earlier_start_confirmed_is_not_believed_of_the_next_which_begins_anew(run: Run) -> None:
    train(run)
    run.path("trackers").mkdir()
    note(run, "wandb", confirmed=5)
    with mirror.mirrors(run, ["wandb"], command=fake("die at init")):
        pass
    assert wandb_of(run).lost == 5


def test_training_comes_first_for_processor_and_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PARTING_S", 0.0)
    with mirror.mirrors(run, ["wandb"], command=fake("hang at init", linger_s=1)):
        assert eventually(lambda: holder_of(standing.lock(run, "wandb")))
        holder = wandb_of(run).holder
        assert holder and holder.pid
        assert os.getpriority(os.PRIO_PROCESS, holder.pid) == 19
        assert os.getsid(holder.pid) == holder.pid, "Ctrl-C is for the training alone"
        if sys.platform == "linux":
            assert Path(f"/proc/{holder.pid}/oom_score_adj").read_text().strip() == "1000"


@pytest.mark.usefixtures("patience")
def test_tensorboard_is_fed_by_its_own_process_while_the_run_goes_on(run: Run) -> None:
    pytest.importorskip("tensorboard")
    loaded = set(sys.modules)
    with mirror.mirrors(run, ["tensorboard"]):
        train(run)
    assert str(standing.standing(run, "tensorboard")) == "tensorboard has all 5 events"
    assert told_of(run) == []
    assert not {name for name in set(sys.modules) - loaded if name.startswith("tensorboard")}


def test_a_push_replays_the_whole_run_and_what_was_lost_no_longer_is(run: Run) -> None:
    train(run)
    run.path("trackers").mkdir()
    note(run, "wandb", confirmed=2, reason="killed by SIGKILL")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tracking.BACKENDS, "wandb", lambda _: Listening())  # type: ignore[arg-type]
        assert mirror.push(run, to="wandb") == 5
    assert str(wandb_of(run)) == "wandb has all 5 events"


def test_a_push_that_fails_says_why_and_how_to_try_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: Run) -> tracking.Backend:
        raise ConnectionError("no such host")

    monkeypatch.setitem(tracking.BACKENDS, "wandb", unreachable)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"wandb failed \(no such host\); try again with: hark track push"):
        mirror.push(run, to="wandb")


def test_a_push_of_which_not_all_arrives_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Listening):
        def flush(self) -> None:
            self.confirmed = len(self.events) - 1

    train(run)
    monkeypatch.setitem(tracking.BACKENDS, "wandb", lambda _: Forgetful())  # type: ignore[arg-type]
    with pytest.raises(RunError, match="it holds 4 of 5 events"):
        mirror.push(run, to="wandb")


def test_two_cannot_feed_a_tracker_at_once(run: Run) -> None:
    run.path("trackers").mkdir()
    with held(standing.lock(run, "wandb")), pytest.raises(RunBusy, match=f"process {os.getpid()} on "):
        mirror.push(run, to="wandb")


def test_an_unknown_tracker_is_told_which_are_known(run: Run) -> None:
    with pytest.raises(UsageError, match=r"tracker 'mlflow': expected one of tensorboard, wandb"):
        mirror.push(run, to="mlflow")


def test_a_tracker_that_is_not_installed_is_a_warning_with_the_way_to_get_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in tracking.BACKENDS:
        monkeypatch.setitem(sys.modules, name, None)
    with mirror.mirrors(run, sorted(tracking.BACKENDS)):
        train(run)
    assert [event["message"].partition(" (")[2].partition(");")[0] for event in told_of(run)] == [
        f'{name} is not installed; install it with: pip install "hark-kws[track]"'
        for name in ("tensorboard", "wandb")
    ]


@pytest.mark.usefixtures("patience")
def test_nothing_that_lies_where_the_training_was_started_is_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    train(run)
    (tmp_path / "argparse.py").write_text("open('canary', 'w')\n")
    monkeypatch.chdir(tmp_path)
    with mirror.mirrors(run, ["tensorboard"]):
        pass
    assert not (tmp_path / "canary").exists()
    assert str(standing.standing(run, "tensorboard")) == "tensorboard has all 5 events"
