"""A corpus comes whole or not at all, however often the connection breaks."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from click.testing import CliRunner

from hark.cli.data import data
from hark.errors import DownloadError, UsageError
from hark.sound import download
from hark.sound.download import Archive

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Serves `content`; how well is set per test."""

    content = CONTENT
    etag = '"first"'
    cuts: tuple[int, ...] = ()  # how many bytes each of the first answers sends before it hangs up
    resumes = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []

    @property
    def archive(self) -> Archive:
        """What a client should expect."""
        url = f"http://127.0.0.1:{self.server_port}/corpus.tar.gz"
        return Archive(url, len(self.content), hashlib.sha256(self.content).hexdigest())


class Handler(BaseHTTPRequestHandler):
    """One answer, cut where the server says."""

    server: Server

    def do_GET(self) -> None:
        """Send the range asked for, if it is of the file that is there now."""
        server, asked = self.server, self.headers["Range"]
        server.ranges.append(asked)
        is_same = self.headers["If-Range"] in (None, server.etag)
        first = int(asked[6:-1]) if asked and server.resumes and is_same else 0
        self.send_response(server.status if server.status != 200 or not first else 206)
        self.send_header("Content-Length", str(len(server.content) - first))
        self.send_header("ETag", server.etag)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        answer = len(server.ranges) - 1
        stop = first + server.cuts[answer] if answer < len(server.cuts) else None
        self.wfile.write(server.content[first:stop])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    download.fetch(server.archive, tmp_path / "a", progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert seen == sorted(seen)
    assert seen[-1] == (300_000, 300_000)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_broken_connection_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cuts = (100_000, 50_000, 1)
    download.fetch(server.archive, tmp_path / "a", wait_s=0)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server: Server, tmp_path: Path) -> None:
    server.cuts = (100_000, 0, 0)
    with pytest.raises(
        DownloadError, match="the connection was closed early; run the command again to go on from"
    ):
        download.fetch(server.archive, tmp_path / "a", attempts=2, wait_s=0)
    assert not (tmp_path / "a").exists()
    download.fetch(server.archive, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=100000-"


def test_a_server_that_cannot_resume_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.cuts, server.resumes = (100_000,), False
    download.fetch(server.archive, tmp_path / "a", wait_s=0)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"of another version")
    (tmp_path / "a.tag").write_text('"older"')
    download.fetch(server.archive, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_server_that_always_breaks_off_is_given_up(server: Server, tmp_path: Path) -> None:
    server.cuts, server.resumes = (100_000, 50_000) * 10, False
    with pytest.raises(DownloadError, match="the connection was closed early"):
        download.fetch(server.archive, tmp_path / "a", attempts=3, wait_s=0)
    assert len(server.ranges) == 4


def test_wrong_bytes_are_refused_and_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"300000 bytes with SHA-256 .*, expected 300000 with 0000"):
        download.fetch(replace(server.archive, sha256="0" * 64), tmp_path / "a")
    assert not list(tmp_path.glob("a")) + list(tmp_path.glob("*.part"))


def test_more_bytes_than_expected_are_not_taken(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="more than the 1000 bytes expected"):
        download.fetch(replace(server.archive, size_bytes=1_000), tmp_path / "a")


def test_a_refusal_is_final_and_a_server_fault_is_not(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DownloadError, match="the server answered 404"):
        download.fetch(server.archive, tmp_path / "a", wait_s=0)
    assert len(server.ranges) == 1
    server.status = 503
    with pytest.raises(DownloadError, match="the server answered 503"):
        download.fetch(server.archive, tmp_path / "a", attempts=3, wait_s=0)
    assert len(server.ranges) == 4


def test_no_server_is_a_download_error(tmp_path: Path) -> None:
    with serving() as gone:
        archive = gone.archive
    with pytest.raises(DownloadError, match="Connection refused"):
        download.fetch(archive, tmp_path / "a", attempts=2, wait_s=0)


def test_the_command_fetches_unpacks_and_says_where(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_nohash_0.wav").write_bytes(b"sound")
    with tarfile.open(tmp_path / "served.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a_nohash_0.wav", "bed/a_nohash_0.wav")
    server.content = (tmp_path / "served.tar.gz").read_bytes()
    monkeypatch.setitem(download.SPEECH_COMMANDS, "0.02", server.archive)
    for _ in range(2):
        result = CliRunner().invoke(data, ["download", "--version", "0.02", "--to", str(tmp_path / "to")])
        assert result.stdout == f"{tmp_path}/to/speech_commands_v0.02\n"
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["speech_commands_v0.02"]
    assert (tmp_path / "to/speech_commands_v0.02/bed/a_nohash_0.wav").read_bytes() == b"sound"
    assert len(server.ranges) == 1


def test_an_unknown_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"version '0\.03', expected one of 0\.01, 0\.02"):
        download.download_speech_commands(tmp_path, version="0.03")
