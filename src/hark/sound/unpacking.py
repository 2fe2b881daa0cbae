"""Archives from anywhere: plain files and folders come out, and nothing else, nowhere else.

Refused is what no corpus holds, before it can take disk, memory or minutes: paths that lead out, links, devices,
bombs, millions of files, names that some file systems take for one.
"""

from __future__ import annotations

import gzip
import math
import secrets
import shutil
import tarfile
import unicodedata
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from hark.errors import DownloadError

CHUNK_BYTES = 1 << 20
HEADER_BYTES = 512


@dataclass(frozen=True)
class Limits:
    """The most that an archive may unpack to; Speech Commands stays far below each."""

    entries: int = 1_000_000
    total_bytes: int = 20 << 30
    ratio: int = 100
    depth: int = 8


LIMITS = Limits()


def unpack(packed: Path, target: Path, *, limits: Limits = LIMITS) -> None:
    """Unpack a `.tar.gz` of plain files and folders; nothing outside `target` is ever created.

    Args:
        packed: The archive; it may come from anywhere.
        target: The folder to make; it must not exist.
        limits: What the archive may unpack to.

    Raises:
        DownloadError: The target exists, the archive is damaged, goes beyond the limits, or holds what no
            corpus holds: links, devices, paths that leave the folder, names that differ by case alone.
    """
    if target.exists():
        raise DownloadError(f"{target}: exists already; remove it or choose another folder")
    unfinished = target.with_name(f".tmp-{target.name}-{secrets.token_hex(4)}")
    try:
        unfinished.mkdir(parents=True)
        _extract(packed, unfinished, limits)
        unfinished.rename(target)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RecursionError) as error:
        raise DownloadError(f"{packed}: damaged archive ({error}); remove it and download it again") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise DownloadError(f"{packed}: cannot be unpacked to {target} ({why})") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


class _Stream(gzip.GzipFile):
    """Decompressed bytes, a mebibyte at most at once: headers can be a bomb as well as files."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= CHUNK_BYTES:
            raise DownloadError(f"{self.name}: a header of over {CHUNK_BYTES} bytes, refused")
        return super().read(size)


def _extract(packed: Path, folder: Path, limits: Limits) -> None:
    """Every member through the checks, one after the other, as they come."""
    by_ratio = max(CHUNK_BYTES, limits.ratio * packed.stat().st_size)
    limit_bytes = min(limits.total_bytes, by_ratio)
    with _Stream(packed, "rb") as stream:
        _look_over(stream, limits.entries, limit_bytes)
    spellings: dict[str, str] = {}
    count = total_bytes = 0
    with _Stream(packed, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or it would remember every one
            count += 1
            total_bytes += member.size
            # The plain headers have been counted, but extended ones may have another opinion.
            if count > limits.entries or total_bytes > limit_bytes:
                raise DownloadError(f"{packed}: unpacks to more than it holds, refused")
            if fault := _fault_of(member, limits.depth) or _collision(member, spellings):
                raise DownloadError(f"{packed}: {member.name[:80]!r} {fault}, refused")
            archive.extract(member, folder, filter="data")


def _look_over(stream: _Stream, most_entries: int, most_bytes: int) -> None:
    """Count files and bytes before anything is unpacked: a million files take minutes to make and to remove."""
    block, at, total_bytes = b"", 0, 0
    for _ in range(most_entries + 1):
        while at >= len(block):
            at -= len(block)
            block = stream.read(CHUNK_BYTES)
            if not block:
                return
        if not block[at] and block.startswith(bytes(HEADER_BYTES), at):
            return
        size = _size_in(block[at : at + HEADER_BYTES])
        total_bytes += size
        if total_bytes > most_bytes:
            raise DownloadError(f"{stream.name}: unpacks to more than {most_bytes} bytes, refused")
        at += HEADER_BYTES * (1 + math.ceil(size / HEADER_BYTES))
    raise DownloadError(f"{stream.name}: more than {most_entries} entries, refused")


def _size_in(header: bytes) -> int:
    """The size field of a tar header: octal digits, or after a set bit a number of eleven bytes."""
    field = header[124:136]
    if field[:1] >= b"\x80":
        return int.from_bytes(field[1:], "big")
    return max(0, int(field.strip(b" \0") or b"0", 8))


def _fault_of(member: tarfile.TarInfo, depth: int) -> str:
    path = PurePosixPath(member.name)
    if not (member.isfile() or member.isdir()) or member.issparse():
        return "is a link, a device or a file with holes"
    if member.size < 0:
        return "is less than empty"
    if PureWindowsPath(member.name).anchor or ".." in path.parts or "\\" in member.name:
        return "leaves the folder"
    if not member.name.isprintable():
        return "is not a file name"
    return f"is deeper than {depth} folders" if len(path.parts) > depth else ""


def _collision(member: tarfile.TarInfo, spellings: dict[str, str]) -> str:
    """Names that come twice, or that some file systems take for one: a later would overwrite an earlier.

    `spellings` has folders as they are written, and files by their folded name alone: there may be a million.
    """
    path = PurePosixPath(member.name)
    for folder in (*([path] if member.isdir() else []), *path.parents):
        known = spellings.setdefault(_folded(folder), str(folder))
        if known != str(folder):
            return f"differs from {known[:80]!r} by case alone" if known else "has a file for a folder"
    if member.isfile():
        if _folded(path) in spellings:
            return "comes twice, or differs from another by case alone"
        spellings[_folded(path)] = ""
    return ""


def _folded(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()
