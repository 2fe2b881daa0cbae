"""A lock has one holder, tells who it is, and is given back by any death."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hark.errors import RunBusy, RunError
from hark.record.locking import Holder, held, holder_of


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_who_holds_a_lock_is_known_while_it_is_held(lock: Path) -> None:
    assert holder_of(lock) is None
    with held(lock):
        assert holder_of(lock) == Holder(os.getpid(), socket.gethostname())
    assert holder_of(lock) is None


def test_a_second_one_is_refused_with_pid_and_host(lock: Path) -> None:
    refusal = f"process {os.getpid()} on {socket.gethostname()} is at work in it"
    with held(lock), pytest.raises(RunBusy, match=refusal), held(lock):
        pass


def test_a_death_gives_it_back(lock: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hark.record.locking import held\n"
        "with held(Path(sys.argv[1])): print('in', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        assert holder_of(lock) == Holder(process.pid, socket.gethostname())
        process.kill()
    assert holder_of(lock) is None
    with held(lock):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x", "host": "y"}', '{"pid": 1e999, "host": "y"}'])
def test_a_holder_that_has_not_said_who_it_is_is_another_process(lock: Path, content: str) -> None:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(content)
        file.flush()
        assert str(holder_of(lock)) == "another process"


def test_a_lock_in_a_folder_that_is_not_there_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none/lock: No such file"), held(tmp_path / "none" / "lock"):
        pass


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"pid": 1}',
        b'{"pid": 1, "host": "\\u001b[2J"}',
        b'{"pid": 1, "host": "' + b"x" * 2000 + b'"}',
    ],
)
def test_a_holder_that_says_nonsense_is_another_process(lock: Path, content: bytes) -> None:
    lock.write_bytes(content)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert str(holder_of(lock)) == "another process"
