"""Google Speech Commands from its server to a folder: resumed, checked by size and digest, unpacked safely.

Nothing appears under its final name before it is whole and checked: the download grows in a `.part` file, and a
rename ends it.
"""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hark.errors import DownloadError, UsageError
from hark.sound.unpacking import unpack

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and those that there will be."""


@dataclass(frozen=True)
class Archive:
    """A file on a server, and how to know it."""

    url: str
    size_bytes: int
    sha256: str


# Digests as torchaudio pins them, sizes as the server states them.
SPEECH_COMMANDS = {
    "0.01": Archive(
        url="http://download.tensorflow.org/data/speech_commands_v0.01.tar.gz",
        size_bytes=1_489_096_277,
        sha256="743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
    ),
    "0.02": Archive(
        url="http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        size_bytes=2_428_923_189,
        sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    ),
}


def _silently(done_bytes: int, total_bytes: int) -> None:
    """No progress to show."""


def download_speech_commands(folder: str | Path, *, version: str = "0.01", progress: Progress = _silently) -> Path:
    """Fetch and unpack the corpus into `folder`, or go on where an earlier call was interrupted.

    Returns:
        The corpus's folder, `speech_commands_v<version>`; one that is there already is left as it is.

    Raises:
        UsageError: There is no such version.
        DownloadError: As for `fetch` and `hark.sound.unpacking.unpack`.
    """
    if version not in SPEECH_COMMANDS:
        raise UsageError(f"version {version!r}, expected one of {', '.join(SPEECH_COMMANDS)}")
    target = Path(folder) / f"speech_commands_v{version}"
    if not target.exists():
        packed = target.with_name(f"{target.name}.tar.gz")
        fetch(SPEECH_COMMANDS[version], packed, progress=progress)
        unpack(packed, target)
        packed.unlink()
    return target


def fetch(
    archive: Archive, target: Path, *, progress: Progress = _silently, attempts: int = 5, wait_s: float = 2.0
) -> None:
    """Download a file, going on from what an earlier call left in `<target>.part`.

    Args:
        archive: What to fetch.
        target: Where to; it gets this name only once size and digest are right, so one that exists is kept.
        progress: Told after every chunk.
        attempts: How many connections in a row may bring nothing new.
        wait_s: Pause in seconds after the first of these; every further pause is twice as long.

    Raises:
        DownloadError: The server refuses or cannot be reached, the disk is full, or the wrong bytes came.
    """
    if target.exists():
        return
    part = target.with_name(f"{target.name}.part")
    best, failures = _size(part), 0
    while _size(part) < archive.size_bytes:
        why = _attempt(archive, part, progress)
        failures = 0 if _size(part) > best else failures + 1
        best = max(best, _size(part))
        if failures == attempts:
            raise DownloadError(f"{archive.url}: {why}; run the command again to go on from {best} bytes")
        time.sleep(wait_s * 2 ** (failures - 1) if failures else 0)
    _verify(archive, part)
    part.replace(target)
    _tag_of(part).unlink(missing_ok=True)


def _attempt(archive: Archive, part: Path, progress: Progress) -> str:
    """One connection; why it ended, where another may help."""
    try:
        _receive(archive, part, progress)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
        elif error.code < http.client.INTERNAL_SERVER_ERROR:
            raise DownloadError(f"{archive.url}: the server answered {error.code} {error.reason}") from None
        return f"the server answered {error.code} {error.reason}"
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        return str(getattr(error, "reason", error))
    except OSError as error:
        raise DownloadError(f"{part}: cannot be written ({error.strerror}); run the command again") from None
    return "the connection was closed early"


def _receive(archive: Archive, part: Path, progress: Progress) -> None:
    """Append what is missing, or begin anew where the server cannot or will not resume."""
    part.parent.mkdir(parents=True, exist_ok=True)
    done = _size(part)
    request = urllib.request.Request(archive.url, headers=_range_headers(part))
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        if not resumed:
            done = 0
        _tag_of(part).write_text(response.headers.get("ETag", ""))
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK_BYTES):
                done += len(chunk)
                if done > archive.size_bytes:
                    raise DownloadError(
                        f"{archive.url}: more than the {archive.size_bytes} bytes expected, refused"
                    )
                file.write(chunk)
                progress(done, archive.size_bytes)


def _range_headers(part: Path) -> dict[str, str]:
    """Ask for the rest, but only of the very file that was begun (RFC 9110, If-Range)."""
    done, tag = _size(part), _tag_of(part)
    if not done:
        return {}
    validator = tag.read_text() if tag.exists() else ""
    # A weak tag cannot vouch for bytes; without a strong one the digest has the last word alone.
    if_range = {"If-Range": validator} if validator.startswith('"') else {}
    return {"Range": f"bytes={done}-", **if_range}


def _verify(archive: Archive, part: Path) -> None:
    """Size and digest; a file with other bytes is removed, since nothing could come of it."""
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if (_size(part), found) != (archive.size_bytes, archive.sha256):
        size = _size(part)
        part.unlink()
        raise DownloadError(
            f"{archive.url}: {size} bytes with SHA-256 {found[:12]}…, expected {archive.size_bytes} with "
            f"{archive.sha256[:12]}…; removed, run the command again"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tag_of(part: Path) -> Path:
    """Where the server's name for this state of the file is kept."""
    return part.with_suffix(".tag")
