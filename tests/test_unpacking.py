"""Plain files come out of an archive; whatever else it holds leaves nothing behind, inside or outside."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hark.errors import DownloadError
from hark.sound.unpacking import Limits, unpack

CONTENT = np.random.default_rng(0).bytes(300_000)


def packed(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    """A `.tar.gz` with these members: `(name, content)` for a plain file."""
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def header_saying(size: bytes) -> bytes:
    """An archive of one file with any twelve bytes for its size, the checksum right."""
    header = bytearray(tarfile.TarInfo("evil").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def of_two_opinions(plain_size: int, extended_size: int) -> bytes:
    """The headers of a file that has one size by the plain header and another by the extended one."""
    member = tarfile.TarInfo("evil")
    member.size, member.pax_headers = plain_size, {"size": str(extended_size)}
    return member.tobuf(tarfile.PAX_FORMAT)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_an_archive_of_plain_files_is_unpacked(tmp_path: Path) -> None:
    files = {"./testing_list.txt": b"bed/a.wav", "./bed/a.wav": b"sound", "./bed/b.wav": b""}
    packed(
        tmp_path / "a.tar.gz",
        special("./", tarfile.DIRTYPE),
        special("./bed", tarfile.DIRTYPE),
        *files.items(),
    )
    unpack(tmp_path / "a.tar.gz", tmp_path / "corpus")
    assert {name: (tmp_path / "corpus" / name).read_bytes() for name in files} == files
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "corpus"}


MALICIOUS: dict[str, tuple[Callable[[Path], object], str]] = {
    "parent": (lambda path: packed(path, ("a/../../evil", b"x")), "leaves the folder"),
    "absolute": (lambda path: packed(path, ("/tmp/evil", b"x")), "leaves the folder"),
    "drive": (lambda path: packed(path, ("C:\\evil", b"x")), "leaves the folder"),
    "backslash": (lambda path: packed(path, ("..\\evil", b"x")), "leaves the folder"),
    "symbolic link": (lambda path: packed(path, special("evil", tarfile.SYMTYPE, "..")), "is a link"),
    "hard link": (lambda path: packed(path, ("a", b""), special("evil", tarfile.LNKTYPE, "a")), "is a link"),
    "device": (lambda path: packed(path, special("evil", tarfile.CHRTYPE)), "is a link, a device"),
    "pipe": (lambda path: packed(path, special("evil", tarfile.FIFOTYPE)), "is a link, a device"),
    "control character": (lambda path: packed(path, ("a\nb", b"")), "is not a file name"),
    "depth": (lambda path: packed(path, ("/".join("abcdefghi"), b"")), "deeper than 8 folders"),
    "twice": (lambda path: packed(path, ("a", b"1"), ("a", b"2")), "comes twice"),
    "case": (lambda path: packed(path, ("a/x", b""), ("A/y", b"")), "differs from 'a' by case alone"),
    "accents": (lambda path: packed(path, ("\u00e9/x", b""), ("e\u0301/y", b"")), "by case alone"),
    "case of a file": (lambda path: packed(path, ("x/a", b"1"), ("x/A", b"2")), "differs from another by case"),
    "file as folder": (lambda path: packed(path, ("a", b""), ("a/b", b"")), "has a file for a folder"),
    "folder as file": (lambda path: packed(path, ("a/b", b""), ("a", b"")), "comes twice"),
    "drive alone": (lambda path: packed(path, ("C:evil", b"x")), "leaves the folder"),
    "block device": (lambda path: packed(path, special("evil", tarfile.BLKTYPE)), "is a link, a device"),
    "file with holes": (
        lambda path: packed(path, special("evil", tarfile.GNUTYPE_SPARSE)),
        "is a link, a device or a file with holes",
    ),
    "huge size": (
        lambda path: path.write_bytes(gzip.compress(header_saying(b"\x80" + b"\xff" * 11))),
        "unpacks to more than 1048576 bytes",
    ),
    "negative size": (
        lambda path: path.write_bytes(gzip.compress(header_saying(b"-7777777777\0"))),
        "is less than empty",
    ),
    "two opinions on size": (
        lambda path: path.write_bytes(gzip.compress(of_two_opinions(0, 10**12) + bytes(1024))),
        "unpacks to more than it holds",
    ),
    "bomb": (lambda path: packed(path, ("zeros", bytes(30_000_000))), "unpacks to more than"),
    "many bombs": (
        lambda path: packed(path, *((f"{n}", bytes(10**6)) for n in range(30))),
        "unpacks to more than",
    ),
    "header bomb": (
        lambda path: packed(path, ("random", CONTENT), ("n" * 20_000_000, b"")),
        "a header of over 1048576 bytes",
    ),
    "not packed": (lambda path: path.write_bytes(b"<html>"), "damaged archive"),
    "no archive": (lambda path: path.write_bytes(gzip.compress(b"x" * 2_000)), "damaged archive"),
    "cut": (
        lambda path: path.write_bytes(packed(path, ("a", CONTENT)).read_bytes()[:150_000]),
        "damaged",
    ),
}


@pytest.mark.parametrize("kind", MALICIOUS)
def test_a_malicious_archive_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    make, message = MALICIOUS[kind]
    make(tmp_path / "a.tar.gz")
    with pytest.raises(DownloadError, match=message) as caught:
        unpack(tmp_path / "a.tar.gz", tmp_path / "corpus")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]
    assert len(str(caught.value)) < 400


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar.gz", *((f"{n}", b"") for n in range(11)))
    with pytest.raises(DownloadError, match="more than 10 entries, refused"):
        unpack(archive, tmp_path / "corpus", limits=Limits(entries=10))
    unpack(archive, tmp_path / "corpus", limits=Limits(entries=11))


def test_entries_hidden_in_what_the_plain_header_calls_data_are_refused(tmp_path: Path) -> None:
    hidden = b"".join(tarfile.TarInfo(f"{n}").tobuf(tarfile.USTAR_FORMAT) for n in range(11))
    content = of_two_opinions(len(hidden), 0) + hidden + bytes(1024)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DownloadError, match="unpacks to more than it holds, refused"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "corpus", limits=Limits(entries=10))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_file_without_a_name_hides_no_others(tmp_path: Path) -> None:
    """Its header begins as the end of an archive does."""
    names = ["", *map(str, range(10))]
    content = b"".join(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT) for name in names) + bytes(1024)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DownloadError, match="more than 10 entries, refused"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "corpus", limits=Limits(entries=10))


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(DownloadError, match="exists already; remove it or choose another folder"):
        unpack(packed(tmp_path / "a.tar.gz", ("a", b"")), tmp_path / "corpus")
