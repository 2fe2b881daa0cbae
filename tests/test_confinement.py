"""A helper may crash, hang, babble or take all the memory: its question gets a reason, the next a new helper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import far_end
from hark.confinement import Helper, HelperError, HelperLost, HelperRefused
from hark.errors import HarkError

TESTS = Path(__file__).parent
Start = Callable[..., Helper]

UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts helpers that do as they are told, with other limits of the near end where a test says so."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
    started = []

    def start_one(module: str = "far_end", **limits: float) -> Helper:
        started.append(Helper(module, replace(far_end.LIMITS, **limits)))  # type: ignore[arg-type]
        return started[-1]

    yield start_one
    for helper in started:
        helper.close()


def pid_of(helper: Helper) -> int:
    told, _ = helper.ask({"pid": None})
    return int(told["pid"])


def is_gone(pid: int) -> bool:
    """Whether a process ends; a zombie has ended."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True
        if status.rpartition(")")[2].split()[0] in "ZX":
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def helper(start: Start) -> Helper:
    """One with the far end's own limits."""
    return start()


@settings(max_examples=50, deadline=None, suppress_health_check=UNCHECKED)
@given(value=json_values, count=st.integers(0, 200_000))
def test_a_question_is_answered_with_json_and_bytes(helper: Helper, value: object, count: int) -> None:
    told, raw = helper.ask({"echo": value, "bytes": count})
    assert told == {"echo": value}
    assert raw == far_end.sound(count)


def test_a_helper_starts_with_the_first_question_and_stays(helper: Helper) -> None:
    assert helper._running is None
    assert pid_of(helper) == pid_of(helper) != os.getpid()


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ({"read_address": 0}, r"crashed \(SIGSEGV\)"),
        ({"kill": signal.SIGABRT}, r"crashed \(SIGABRT\)"),
        ({"kill": signal.SIGSTOP}, "gave no answer within 0.5 s"),
        ({"sleep_s": 60}, "gave no answer within 0.5 s"),
        ({"exit": 3}, r"ended with status 3 \(no message\)"),
        ({"divide_by": 0}, r"ended with status 1 \(ZeroDivisionError: division by zero\)"),
        ({"bytes": 1_000_001}, "answered nonsense"),
        ({"write_to_pipe": "x" * 100}, "answered nonsense"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_lost_helper_is_explained_and_replaced(start: Start, question: dict[str, object], reason: str) -> None:
    helper = start(answer_bytes=1_000_000)
    before = pid_of(helper)
    with pytest.raises(HelperLost, match=f"^{reason}$"):
        helper.ask(question, within_s=0.5 if "within" in reason else None)
    assert is_gone(before)
    assert pid_of(helper) != before


def test_a_refusal_and_a_lack_of_memory_leave_the_helper_well(helper: Helper) -> None:
    before = pid_of(helper)
    with pytest.raises(HelperRefused, match=r"^not today$"):
        helper.ask({"refuse": "not today"})
    with pytest.raises(HelperRefused, match=r"^takes more than 1024 MiB of memory$"):
        helper.ask({"allocate": 1 << 30})
    assert helper.ask({"allocate": 1 << 29}) == ({"allocate": 1 << 29}, b"")
    assert pid_of(helper) == before


def test_a_question_too_long_is_refused_before_it_is_asked(helper: Helper) -> None:
    with pytest.raises(HelperRefused, match="bytes of question, expected at most 65536"):
        helper.ask({"echo": "x" * 65_536})
    assert helper._running is None


def test_what_is_printed_comes_between_no_answers(helper: Helper) -> None:
    assert helper.ask({"print": "hello", "echo": 1})[0] == {"print": None, "echo": 1}


def test_the_far_end_is_limited(helper: Helper) -> None:
    told, _ = helper.ask({"limits": ["RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_FSIZE"]})
    assert told["limits"] == [far_end.LIMITS.memory_bytes, 0, 1 << 20]


def test_no_module_of_the_current_folder_is_imported(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "hark", "far_end"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is not it')")
    monkeypatch.chdir(tmp_path)
    assert pid_of(start())


def test_a_helper_that_cannot_be_started_is_nobodys_bad_file(start: Start) -> None:
    with pytest.raises(
        HarkError, match=r"helper no_such_module cannot be started, it ended with .*No module named"
    ):
        start("no_such_module").ask({})
    assert not issubclass(HarkError, HelperError)


def test_a_closed_helper_ends(helper: Helper) -> None:
    with helper:
        pid = pid_of(helper)
    assert is_gone(pid)


def test_a_lost_helper_takes_along_what_it_started(helper: Helper, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    while not (told.exists() and told.read_text()):  # a busy machine may not get as far in time
        with pytest.raises(HelperLost):
            helper.ask({"fork_and_hang": str(told)}, within_s=0.5)
    assert is_gone(int(told.read_text()))


@pytest.mark.parametrize("question", [{}, {"sleep_s": 60}], ids=["idle", "at work"])
def test_no_helper_outlives_its_killed_near_end(
    start: Start, question: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle, it reads the end of its questions; at work, an alarm of its own ends it."""
    monkeypatch.setenv("FAR_END_ANSWER_S", "0.1")
    script = (
        "import os, signal, threading, far_end\n"
        "from dataclasses import replace; from hark.confinement import Helper\n"
        "helper = Helper('far_end', replace(far_end.LIMITS, answer_s=60))\n"
        "print(helper.ask({'pid': None})[0]['pid'], flush=True)\n"
        "threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        f"helper.ask({question})\n"
        "signal.pause()"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    assert is_gone(int(done.stdout))


def test_a_fork_of_the_near_end_leaves_the_helper_alone(helper: Helper) -> None:
    before = pid_of(helper)
    child = os.fork()
    if child == 0:
        helper.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert pid_of(helper) == before
