"""Clips judged and decoded once, kept in one file that the next start looks them up in.

A verdict holds as long as its file keeps its size and time of change, so that a second start decodes nothing.
The file shows its own damage: one that is not whole is told and made again.

    sounds      int16, little-endian, one after the other
    entries     JSON: how clips are kept; of each its file, its verdict and how many samples it has
    trailer     length of the JSON, mark, SHA-256 of all before
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from hark.errors import RunError
from hark.files import TEMPORARY, explained, make_folder, replacing
from hark.notices import say
from hark.sound import audio
from hark.sound.augmentation import cut_or_pad
from hark.sound.corpus import Clip
from hark.sound.inspection import LONGEST_S, Inspection, Verdict, examine_all, summed_up

_LENGTH, _MARK, _DIGEST_BYTES = struct.Struct("<Q"), b"hark\0sd1", 32  # the mark's end is the version of all of it
_TRAILER_BYTES = _LENGTH.size + len(_MARK) + _DIGEST_BYTES

_Key: TypeAlias = tuple[str, float, float | None, int, int]
_Entries: TypeAlias = dict[_Key, tuple[Verdict, audio.Pcm]]


@dataclass(frozen=True)
class Form:
    """How clips are kept.

    Attributes:
        samples: All are cut or padded to so many; as long as they are if None.
        longest_s: What lasts longer is quarantined.
    """

    samples: int | None = None
    longest_s: float = LONGEST_S


@dataclass(frozen=True)
class Prepared:
    """Clips that have been judged, and the sound of those that are good.

    Attributes:
        inspection: The good and the bad, in their order.
        sounds: Of each good clip `(samples,)`, mapped from the file.
    """

    inspection: Inspection
    sounds: list[audio.Pcm]

    def __iter__(self) -> Iterator[tuple[Clip, audio.Pcm]]:
        """The good clips with their sound."""
        return zip(self.inspection.good, self.sounds, strict=True)


def prepare(clips: Sequence[Clip], path: Path, form: Form) -> Prepared:
    """Judge and decode clips, or take from the file at `path` what is known of them already.

    Processes that ask at once wait for the first.

    Raises:
        RunError: The file cannot be written, or does not stay as written.
    """
    if not clips:
        return Prepared(Inspection([], [], []), [])
    keys = [_key(clip) for clip in clips]
    entries = _read(path, form, on_damage=lambda _: None)
    if not _holds(entries, keys):
        make_folder(path.parent)
        with _alone(path):
            entries = _read(path, form, on_damage=say)
            if not _holds(entries, keys):
                with replacing(path) as file:
                    _fill(file, form, _judged(clips, keys, form, entries))
                entries = _read(path, form, on_damage=say)
    if not all(key in entries for key in keys):
        raise RunError(f"{path}: is not what was written a moment ago; check the disk")
    found = [entries[key] for key in keys]
    inspection = summed_up((clip, verdict) for clip, (verdict, _) in zip(clips, found, strict=True))
    return Prepared(inspection, [sound for verdict, sound in found if verdict.kind != "quarantine"])


def _key(clip: Clip) -> _Key:
    """What a verdict holds for. The time of change, unlike that of modification, moves with a chmod too."""
    path = os.path.abspath(clip.path)  # noqa: PTH100 (without following links, and five times as quick)
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return path, clip.start_s, clip.duration_s, -1, -1
    return path, clip.start_s, clip.duration_s, status.st_size, status.st_ctime_ns


def _holds(entries: _Entries, keys: Iterable[_Key]) -> bool:
    return all(key in entries and entries[key][0].is_lasting for key in keys)


def _judged(
    clips: Iterable[Clip], keys: Iterable[_Key], form: Form, known: _Entries
) -> Iterator[tuple[_Key, Verdict, audio.Pcm]]:
    """Verdict and sound of each clip, decoded where it is not known."""
    pairs = list(zip(clips, keys, strict=True))
    unknown = (clip for clip, key in pairs if not _holds(known, [key]))
    examined = examine_all(unknown, longest_s=form.longest_s)
    for _, key in pairs:
        if _holds(known, [key]):
            yield key, *known[key]
            continue
        _, verdict, waveform = next(examined)
        if form.samples is not None and verdict.kind != "quarantine":
            waveform = cut_or_pad(waveform, form.samples)
        yield key, verdict, audio.to_pcm16(waveform)


def _read(path: Path, form: Form, *, on_damage: Callable[[str], None]) -> _Entries:
    """What the file at `path` holds; nothing if it is missing, of another form or version, or damaged."""
    try:
        return _read_whole(path, form)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        on_damage(f"{path}: damaged ({error}); all clips are decoded anew")
        return {}


def _read_whole(path: Path, form: Form) -> _Entries:
    whole = np.asarray(np.memmap(path, np.uint8, "r"))
    if hashlib.sha256(whole[:-_DIGEST_BYTES].data).digest() != whole[-_DIGEST_BYTES:].tobytes():
        raise ValueError("its digest differs")
    trailer = whole[-_TRAILER_BYTES:-_DIGEST_BYTES].tobytes()
    if not trailer.endswith(_MARK):
        return {}  # whole, but of another version
    end = len(whole) - _TRAILER_BYTES
    begin = end - _LENGTH.unpack_from(trailer)[0]
    kept = json.loads(whole[begin:end].tobytes())
    if kept["form"] != list(astuple(form)):
        return {}
    entries: _Entries = {}
    sounds, at = whole[:begin].view("<i2"), 0
    for file, verdict, samples in kept["clips"]:
        entries[tuple(file)] = Verdict(*verdict), sounds[at : at + samples]
        at += samples
    return entries


def _fill(file: BinaryIO, form: Form, clips: Iterable[tuple[_Key, Verdict, audio.Pcm]]) -> None:
    """Write the whole file, clip by clip."""
    sha = hashlib.sha256()

    def put(content: bytes) -> None:
        sha.update(content)
        file.write(content)

    entries = []
    for key, verdict, sound in clips:
        put(sound.astype("<i2").tobytes())
        entries.append([key, astuple(verdict), len(sound)])
    text = json.dumps({"form": astuple(form), "clips": entries}).encode()
    put(text + _LENGTH.pack(len(text)) + _MARK)
    file.write(sha.digest())


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; two at once would both be right, only twice the work."""
    with explained(path):
        lock = path.with_name(f"{path.name}.lock").open("a")
    with lock:
        with suppress(OSError):  # where the file system knows no locks, it goes without
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in path.parent.glob(f"{TEMPORARY}{path.name}-*"):  # of one that was killed
            leftover.unlink(missing_ok=True)
        yield
