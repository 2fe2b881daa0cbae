"""Hostile archives and manifests: refused with a reason, at once, and nothing outside their folder is made."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hark.errors import CorpusError, RunError
from hark.record.runs import Run
from hark.showing import results
from hark.sound import corpus
from test_unpacking import MALICIOUS

Record = Callable[[str, object], None]
NewRun = Callable[[str], Run]

# In a process of its own, whose memory is its own: what becomes of each archive, and how long it takes.
UNPACK = """
import json, sys, time
from pathlib import Path
from hark.errors import HarkError
from hark.sound.unpacking import unpack
told = []
for name in sys.argv[1:]:
    began_s = time.process_time()
    try:
        unpack(Path(name), Path(name).parent / "corpus")
        told.append(["unpacked", 0.0])
    except HarkError as error:
        told.append([str(error), time.process_time() - began_s])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"told": told, "peak_mib": int(peak.split()[1]) >> 10}))
"""


def unpacked(archives: Iterable[Path]) -> dict[str, Any]:
    """The reasons and processor seconds of archives, in their order, and the most memory."""
    command = [sys.executable, "-c", UNPACK, *map(str, archives)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """Every name below a folder, and what the files hold."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.fault("F26")
def test_no_malicious_archive_gets_anything_out(tmp_path: Path, record_property: Record) -> None:
    """Beside each is a canary, which a link, a path or a device out of the folder would reach."""
    archives = [tmp_path / f"{number}" / "in" / "a.tar.gz" for number in range(len(MALICIOUS))]
    for archive, (make, _) in zip(archives, MALICIOUS.values(), strict=True):
        archive.parent.mkdir(parents=True)
        (archive.parent / "canary").write_text("alive")
        make(archive)
    before = tree(tmp_path)
    found = unpacked(archives)
    assert tree(tmp_path) == before
    assert not Path("/tmp/evil").exists()
    for (reason, seconds), (_, expected) in zip(found["told"], MALICIOUS.values(), strict=True):
        assert expected in reason
        assert seconds < 2
    assert found["peak_mib"] < 256
    slowest_s = max(seconds for _, seconds in found["told"])
    record_property(
        "outcome",
        f"{len(archives)} of {len(archives)} malicious archives are refused with the reason, after "
        f"{slowest_s * 1000:.0f} ms at most and with {found['peak_mib']} MiB; nothing is made, inside or outside",
    )


def zeros(path: Path, files: int, mebibytes: int) -> Path:
    """A tar of so many files of zeros, packed a thousand to one."""
    info = tarfile.TarInfo("zeros")
    info.size = mebibytes << 20
    header, content = gzip.compress(info.tobuf(tarfile.GNU_FORMAT)), gzip.compress(bytes(1 << 20))
    with path.open("wb") as file:
        for _ in range(files):
            file.write(header)
            file.writelines([content] * mebibytes)
    return path


@pytest.mark.fault("F26")
@pytest.mark.parametrize(("files", "mebibytes"), [(1, 10_240), (4_096, 1)])
def test_a_bomb_is_refused_before_it_takes_the_disk(
    files: int, mebibytes: int, tmp_path: Path, record_property: Record
) -> None:
    bomb = zeros(tmp_path / "a.tar.gz", files, mebibytes)
    unpacked_bytes = files * mebibytes << 20
    found = unpacked([bomb])
    ((reason, seconds),) = found["told"]
    assert "unpacks to more than" in reason
    assert found["peak_mib"] < 256
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]
    record_property(
        "outcome",
        f"{unpacked_bytes >> 30} GiB in {files:,} files packed {unpacked_bytes / bomb.stat().st_size:,.0f}:1 are "
        f"refused after {seconds * 1000:.0f} ms of processor time with {found['peak_mib']} MiB, nothing written",
    )


def empty_files(path: Path, count: int, *, times: int = 1) -> Path:
    """A tar of `count` empty files, each with a name of its own, all of them so many times."""
    header = np.frombuffer(tarfile.TarInfo("0" * 10).tobuf(tarfile.USTAR_FORMAT), np.uint8)
    block = np.tile(header, (count, 1))
    block[:, :10] = np.arange(count)[:, None] // 10 ** np.arange(9, -1, -1) % 10 + ord("0")
    block[:, 148:156] = ord(" ")
    checksums = block.sum(axis=1, dtype=np.int64)[:, None]
    block[:, 148:154] = checksums // 8 ** np.arange(5, -1, -1) % 8 + ord("0")
    block[:, 154] = 0
    path.write_bytes(gzip.compress(block.tobytes(), compresslevel=1) * times + gzip.compress(bytes(1024)))
    return path


@pytest.mark.fault("F26")
def test_an_archive_of_millions_of_files_is_refused_before_the_first_is_made(
    tmp_path: Path, record_property: Record
) -> None:
    found = unpacked([empty_files(tmp_path / "a.tar.gz", 100_000, times=100)])
    ((reason, seconds),) = found["told"]
    assert "more than 1000000 entries, refused" in reason
    assert found["peak_mib"] < 256
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]
    record_property(
        "outcome",
        f"an archive of {100 * 100_000:,} files is refused after {seconds:.1f} s of processor time, "
        f"with {found['peak_mib']} MiB and no file made",
    )


@pytest.mark.fault("F26")
def test_the_files_of_that_archive_are_what_they_seem(tmp_path: Path) -> None:
    """So that it is their number that is refused."""
    ((reason, _),) = unpacked([empty_files(tmp_path / "a.tar.gz", 1_001)])["told"]
    assert reason == "unpacked"
    names = sorted(path.name for path in (tmp_path / "corpus").iterdir())
    assert names == [f"{number:010}" for number in range(1_001)]


@pytest.mark.fault("F26")
def test_a_manifest_of_ten_million_lines_is_refused_before_it_is_parsed(
    tmp_path: Path, record_property: Record
) -> None:
    manifest = tmp_path / "clips.jsonl"
    manifest.write_bytes(b"{}\n" * 10**7)
    began_s = time.process_time()
    with pytest.raises(CorpusError, match=r"10000000 lines, expected at most 1000000; cut it in parts"):
        corpus.read_manifest(manifest)
    taken_s = time.process_time() - began_s
    record_property(
        "outcome", f"a manifest of 10,000,000 lines is refused after {taken_s:.1f} s of processor time"
    )


@pytest.mark.fault("F26")
def test_no_line_of_a_manifest_leads_out_of_its_folder(tmp_path: Path, record_property: Record) -> None:
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "secret.wav").write_bytes(b"sound of others")
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    (folder / "out").symlink_to(tmp_path)
    paths = ["../secret.wav", "deep/../../secret.wav", f"{tmp_path}/secret.wav", "/etc/passwd", "link.wav"]
    paths += [
        "out/secret.wav",
        "C:\\secret.wav",
        "C:secret.wav",
        "\\\\server\\share\\a.wav",
        "//server/share/a.wav",
    ]
    refused = 0
    for path in paths:
        (folder / "clips.jsonl").write_text(json.dumps({"path": path, "label": "x"}))
        with pytest.raises(CorpusError, match=r"clips\.jsonl:1: path .* leaves the manifest's folder"):
            corpus.load(folder / "clips.jsonl")
        refused += 1
    record_property(
        "outcome",
        f"{refused} of {len(paths)} manifest lines that lead out of their folder are refused by line number",
    )


@pytest.mark.fault("F26")
def test_a_bomb_in_the_scores_of_a_run_is_refused(new_run: NewRun, record_property: Record) -> None:
    run = new_run("foreign")
    path = run.path("scores.npz")
    np.savez_compressed(path, scores=np.zeros(3 << 24, np.float16), labels=np.zeros(1, bool))
    ratio = (3 << 25) / path.stat().st_size
    with pytest.raises(
        RunError, match=r"scores\.npz: expected scores .*unpacks to 100,66.* bytes, expected at most"
    ):
        results.read(run)
    record_property("outcome", f"a run's scores packed {ratio:,.0f}:1 are refused before they are unpacked")
