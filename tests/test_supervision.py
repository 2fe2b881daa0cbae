"""Supervision: what has died is started again as long as it gets further, what ended by itself never is."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hark.record import supervision
from hark.record.runs import Run
from hark.record.supervision import ON_ANOTHER_DEVICE, reason_to_restart, supervise

NewRun = Callable[[str], Run]

# Each start takes the next of the ways to end: an exit code, or minus a signal; after a step if it says so.
COMMAND = """
import os, signal, sys
from pathlib import Path
from hark.record.runs import Run

folder, *given = sys.argv[1:]
starts, ends = Path(folder, "starts.txt"), Path(folder, "ends.txt")
with starts.open("a") as file:
    file.write(" ".join(given) + "\\n")
number = len(starts.read_text().splitlines())
code, step = eval(ends.read_text())[number - 1]
if step:
    Run(Path(folder, "run")).checkpoints.save(step, {"weights": b""}, info={})
os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
"""


class Command:
    """A command with a will of its own."""

    def __init__(self, folder: Path, *ends: int | tuple[int, int]) -> None:
        self.folder = folder
        Run.create(folder, "run", about={})
        (folder / "ends.txt").write_text(repr([end if isinstance(end, tuple) else (end, 0) for end in ends]))

    def supervised(self, *, retries: int = 5, after_loss: Sequence[Sequence[str]] = ()) -> int:
        command = [sys.executable, "-c", COMMAND, str(self.folder)]
        return supervise(command, folder=self.folder, retries=retries, after_loss=after_loss, first_pause_s=1e-6)

    @property
    def starts(self) -> list[str]:
        """What was added to the command, at each start."""
        return (self.folder / "starts.txt").read_text().splitlines()


def test_what_was_killed_or_crashed_is_started_again_and_each_time_told_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = Command(tmp_path, -9, 139, 75, 0)
    assert command.supervised() == 0
    assert len(command.starts) == 4
    assert [line.partition(" in ")[0] for line in capfd.readouterr().err.splitlines()] == [
        "supervise: killed by SIGKILL, as when memory runs out; restart 1 of 5",
        "supervise: killed by SIGSEGV; restart 2 of 5",
        "supervise: exit code 75, which asks for another try; restart 3 of 5",
    ]


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 7, 77, 130, 143, 255, -15])
def test_what_ended_by_itself_or_was_asked_to_is_not_started_again(tmp_path: Path, code: int) -> None:
    command = Command(tmp_path, code, 0)
    assert command.supervised() == (code if code >= 0 else 128 - code)
    assert len(command.starts) == 1


def test_no_exit_code_but_75_and_those_of_deaths_is_a_reason() -> None:
    reasons = {code for code in range(256) if reason_to_restart(code)}
    asked = {signal.SIGINT, signal.SIGTERM, signal.SIGQUIT}
    assert reasons == {75} | {128 + number for number in set(signal.Signals) - asked}


def test_it_gives_up_when_that_many_restarts_have_brought_it_no_further(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = Command(tmp_path, *[-9] * 9)
    assert command.supervised(retries=2) == 137
    assert len(command.starts) == 3
    assert capfd.readouterr().err.endswith(f"2 restarts have brought {tmp_path} no further, so that is the end\n")


def test_a_checkpoint_makes_it_patient_again(tmp_path: Path) -> None:
    """Two restarts are allowed without one: here are 2, then 1 and 2 after it."""
    command = Command(tmp_path, -9, -9, (-9, 10), -9, (-9, 20), -9, -9, -9)
    assert command.supervised(retries=2) == 137
    assert len(command.starts) == 7


def test_a_step_made_again_is_no_progress(tmp_path: Path) -> None:
    command = Command(tmp_path, (-9, 10), (-9, 10), (-9, 10), (-9, 10))
    assert command.supervised(retries=1) == 137
    assert len(command.starts) == 2


def test_pauses_double_up_to_a_limit_and_vary_by_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(supervision._Child, "run", lambda self, command: 137)
    monkeypatch.setattr(supervision._Child, "rest", lambda self, pause_s, folder: pauses.append(pause_s))
    supervise([], folder=tmp_path, retries=12)
    shares = [pause / min(300, 2**number) for number, pause in enumerate(pauses)]
    assert len(shares) == 12
    assert all(0.5 <= share <= 1.5 for share in shares)
    assert len(set(shares)) == 12


def test_after_a_loss_other_devices_are_tried_and_one_that_is_not_back_is_waited_for(tmp_path: Path) -> None:
    command = Command(tmp_path, -9, 75, 7, 75, (75, 10), -9, 0)
    assert command.supervised(after_loss=ON_ANOTHER_DEVICE) == 0
    auto, cpu = "--device auto", "--device cpu"
    assert command.starts == ["", "", auto, auto, cpu, cpu, cpu]


def test_without_leave_the_device_stays_the_same(tmp_path: Path) -> None:
    command = Command(tmp_path, 75, 75, 7, 0)
    assert command.supervised() == 0
    assert command.starts == [""] * 4


WAITING = """
import os, signal, sys, time
from pathlib import Path

def note(number, frame):
    with Path(sys.argv[1], "signals.txt").open("a") as file:
        file.write(f"{number}\\n")
    if number == signal.SIGTERM:
        sys.exit(143) if sys.argv[2] == "saves" else os.kill(os.getpid(), signal.SIGKILL)

assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, note)
Path(sys.argv[1], "ready").touch()
while True:
    time.sleep(0.01)
"""


@pytest.mark.parametrize(("how", "code"), [("saves", 143), ("dies", 137)])
def test_signals_go_on_to_the_command_and_what_was_asked_to_stop_stays_so(
    tmp_path: Path, how: str, code: int
) -> None:
    told = tmp_path / "signals.txt"
    numbers = [signal.SIGUSR1, signal.SIGTERM]

    def send() -> None:
        wait_until((tmp_path / "ready").exists)
        os.kill(os.getpid(), signal.SIGHUP)  # the terminal is closed: that is nothing to them
        for count, number in enumerate(numbers, start=1):
            os.kill(os.getpid(), number)
            wait_until(lambda count=count: told.exists() and len(told.read_text().splitlines()) == count)  # type: ignore[misc]

    sender = threading.Thread(target=send)
    sender.start()
    before = [signal.getsignal(number) for number in numbers]
    command = [sys.executable, "-c", WAITING, str(tmp_path), how]
    found = supervise(command, folder=tmp_path, retries=5, first_pause_s=1e-6)
    sender.join()
    assert found == code
    assert told.read_text().split() == [str(int(number)) for number in numbers]
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_wish_to_stop_ends_a_pause_and_nothing_is_started_any_more(tmp_path: Path) -> None:
    with supervision._Child() as child:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        child.rest(3600, tmp_path)
        assert child.run(["no such command"]) == 143


def test_a_pause_lasts_while_somebody_is_still_at_work_there(new_run: NewRun) -> None:
    """As the processes of a fold are, when the one that started them was killed."""
    run, order = new_run("a"), list[str]()
    locked = threading.Event()

    def work() -> None:
        with run.locked():
            locked.set()
            threading.Event().wait(0.3)
            order.append("work is done")

    worker = threading.Thread(target=work)
    worker.start()
    locked.wait()
    supervision._Child().rest(0.0, run.folder.parent)
    order.append("pause is over")
    worker.join()
    assert order == ["work is done", "pause is over"]


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not condition():
        pause.wait(0.01)
