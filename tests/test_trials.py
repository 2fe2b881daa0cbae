"""Trials tell what the machine does, leave nothing behind, and do not wait for what never answers."""

from __future__ import annotations

import http.server
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from hark.errors import RunError
from hark.record import trials
from hark.record.doctor import TESTED


def test_the_disk_is_tried_where_runs_would_go_and_left_as_it_was(tmp_path: Path) -> None:
    found = trials.disk(tmp_path / "not" / "yet" / "there")
    assert found.folder == tmp_path
    assert found.save_s > 0
    assert found.free_bytes > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_may_not_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(RunError, match="Permission denied"):
        trials.disk(tmp_path)


def test_a_disk_on_which_no_checkpoint_can_be_saved_is_an_error_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_rename(self: Path, target: Path) -> Path:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "rename", no_rename)
    with pytest.raises(RunError, match="Operation not supported"):
        trials.disk(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_on_the_file_system_mounted_nearest(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("tmpfs /data/fast tmpfs rw 0 0\nserver:/x /data nfs4 rw 0 0\n/dev/a / ext4 rw 0 0\n")
    kinds = {"/": "ext4", "/database": "ext4", "/data": "nfs4", "/data/runs": "nfs4", "/data/fast/runs": "tmpfs"}
    assert {folder: trials.file_system(Path(folder), mounts=mounts) for folder in kinds} == kinds
    assert trials.file_system(Path("/"), mounts=tmp_path / "none") == "unknown"


def test_the_clock_is_watched_against_one_that_nobody_can_set() -> None:
    found = trials.clock()
    assert found.passed_s == pytest.approx(found.true_s, abs=0.05)
    assert found.true_s >= trials.CLOCK_WATCHED_S


def test_sound_comes_back_as_it_went_in() -> None:
    found = trials.audio()
    assert found.faults == ()
    assert found.libsndfile[0].isdigit()


def test_a_library_that_changes_sound_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile
    import soxr

    monkeypatch.setattr(soundfile, "read", lambda *_, **__: (np.zeros(4410, np.int16), 44_100))
    monkeypatch.setattr(soxr, "resample", lambda *_: np.zeros(3))
    assert trials.audio().faults == (
        "WAV comes back otherwise than it was written",
        "FLAC comes back otherwise than it was written",
        "soxr resamples to a wrong length",
    )


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Refusing(http.server.BaseHTTPRequestHandler):
    """A server that is there and knows nobody."""

    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_server_that_refuses_is_reachable() -> None:
    with serving(Refusing) as address:
        assert trials.unreachable(address, limit_s=10) is None


class Late(Refusing):
    """A server that answers when nobody waits any more."""

    def do_HEAD(self) -> None:
        GIVEN_UP.wait(10)
        with suppress(OSError):
            super().do_HEAD()


GIVEN_UP = threading.Event()


def test_a_server_that_takes_the_call_and_does_not_answer_is_not_waited_for() -> None:
    with serving(Late) as address:
        assert trials.unreachable(address, limit_s=0.1) == "timed out"
        GIVEN_UP.set()


def test_a_server_that_is_not_there_and_an_address_that_is_none_are_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert trials.unreachable(f"http://127.0.0.1:{port}", limit_s=10) == "Connection refused"
    assert "unknown url type" in str(trials.unreachable("api.example.org", limit_s=10))


@pytest.mark.parametrize(
    ("script", "loads", "gpu", "complaint"),
    [
        ('import json; print(json.dumps({"build": "12.4", "gpu": "NVIDIA H100"}))', True, "NVIDIA H100", ""),
        ('import sys; print("{}"); print("a\\nno driver", file=sys.stderr)', True, None, "no driver"),
        ('raise SystemExit("libcudart.so: cannot open")', False, None, "libcudart.so: cannot open"),
    ],
)
def test_what_torch_says_of_a_gpu_is_asked_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, script: str, loads: bool, gpu: str | None, complaint: str
) -> None:
    monkeypatch.setattr(trials, "_ASK_TORCH", script)
    found = trials.gpu(limit_s=60)
    assert (found.loads, found.gpu, found.complaint) == (loads, gpu, complaint)
    assert found.build == ("12.4" if gpu else None)
    assert found.torch == trials.installed("torch")


def test_torch_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_ASK_TORCH", "import time; time.sleep(60)")
    assert trials.gpu(limit_s=0.1).loads is None


def test_without_torch_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "installed", lambda _: None)
    monkeypatch.setattr("subprocess.run", pytest.fail)
    assert trials.gpu(limit_s=60).torch is None


def test_voices_are_counted_by_espeak_itself() -> None:
    pytest.importorskip("espeakng_loader", reason="the extra synthesis is not installed")
    assert trials.voices(limit_s=60) > 50


def test_the_oldest_versions_that_will_do_are_those_the_package_asks_for() -> None:
    needed = trials.required()
    assert {name for name in TESTED if name not in needed} == set()
    assert all(re.fullmatch(r"[\d.]+", version) for version in needed.values())
