"""Clips on disk: any folder-per-word tree, Google Speech Commands, or a JSON-lines manifest.

A tree is `<word>/<speaker>_nohash_<take>.wav`, as in Speech Commands, or `<word>/<anything>.wav`; folders
whose name begins with `_` or `.` are not words. A manifest line is `{"path": "happy/a.wav", "label":
"happy"}` with, where known, `speaker`, `start_s`, `duration_s` and `split`; its paths are relative to the
manifest and stay in its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, NoReturn

from hark.errors import CorpusError
from hark.files import write_atomically

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3"})
BACKGROUND_FOLDER = "_background_noise_"
SPEAKER_MARK = "_nohash_"
LONGEST_LINE_BYTES = 1 << 16
MOST_LINES = 1_000_000
COUNTED_BYTES = 1 << 20
LATEST_S = 1e9


@dataclass(frozen=True)
class Clip:
    """One utterance: a recording, or the part of one from `start_s`, of one word by one speaker."""

    path: Path
    label: str
    speaker: str
    start_s: float = 0.0
    duration_s: float | None = None
    split: str | None = None


def load(source: str | Path) -> list[Clip]:
    """The clips of a folder-per-word tree or of a manifest, whichever `source` is."""
    if not Path(source).exists():
        raise CorpusError(f"{source}: is not there, expected a folder per word or a JSON-lines manifest")
    return scan(source) if Path(source).is_dir() else read_manifest(source)


def scan(root: str | Path) -> list[Clip]:
    """All clips of a folder-per-word tree, sorted by word and file name.

    Every name with an audio suffix is listed, damaged files and dangling links too: inspection names them.

    Raises:
        CorpusError: No folder, or no clips in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(f"{root}: no such folder, expected one with a folder of recordings per word")
    clips = [
        Clip(path=path, label=word.name, speaker=speaker_of(path.name))
        for word in sorted(root.iterdir())
        if word.is_dir() and not word.name.startswith(("_", "."))
        for path in _recordings(word)
    ]
    if not clips:
        raise CorpusError(f"{root}: no recordings, expected <word>/<name>.wav (or .flac, .ogg, .mp3)")
    return clips


def background_files(root: str | Path) -> list[Path]:
    """The noise recordings that come with a corpus, sorted; none where it has no such folder."""
    folder = Path(root) / BACKGROUND_FOLDER
    return _recordings(folder) if folder.is_dir() else []


def speech_files(folder: str | Path) -> list[Path]:
    """The recordings of sentences in a folder and all below it, sorted.

    Raises:
        CorpusError: There are none; a misspelt folder would otherwise be no speech at all, without a word.
    """
    return _all_recordings(folder, "a folder of sentences without the keyword")


def noise_files(folder: str | Path) -> list[Path]:
    """The recordings of background in a folder and all below it, sorted.

    Raises:
        CorpusError: There are none.
    """
    return _all_recordings(folder, "a folder of background noises")


def speaker_of(file_name: str) -> str:
    """Who speaks, from a file's name.

    `0132a06d_nohash_2.wav` is speaker `0132a06d`, as Speech Commands has it. Any other name is the speaker
    up to its first `_`, so `anna_03.wav` is `anna`; a name without one is a speaker of its own.
    """
    stem = Path(file_name).stem
    mark = SPEAKER_MARK if SPEAKER_MARK in stem else "_"
    return stem.split(mark)[0] or stem


def digest(clips: Iterable[Clip]) -> str:
    """SHA-256 that names the data: every clip's path below the common folder, its bytes' count and its part.

    The same files in another place or another order have the same digest.

    Raises:
        CorpusError: No clips, or one of them is gone.
    """
    clips = list(clips)
    if not clips:
        raise CorpusError("no clips, expected at least one to take the digest of")
    top = os.path.commonpath([clip.path.parent.parent for clip in clips])
    lines = sorted(
        f"{clip.path.relative_to(top).as_posix()} {_size(clip.path)} {clip.start_s} {clip.duration_s}\n"
        for clip in clips
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_manifest(path: str | Path) -> list[Clip]:
    """The clips of a JSON-lines manifest, in its order.

    Raises:
        CorpusError: It is no file, or has over a million lines. With the line's number: not JSON, an unknown or
            missing key, a wrong type, a path that leaves the manifest's folder, a clip that was there before.
    """
    path = Path(path)
    folder = path.parent.resolve()
    lines_of: dict[tuple[object, ...], int] = {}
    clips = []
    try:
        _require_few_lines(path)
        with path.open("rb") as file:
            for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE_BYTES), b""), start=1):
                if not line.strip():
                    continue
                clip = _parse_line(line, folder, f"{path}:{number}")
                first = lines_of.setdefault((clip.path, clip.start_s, clip.duration_s), number)
                if first != number:
                    raise CorpusError(f"{path}:{number}: the clip of line {first} again, expected each once")
                clips.append(clip)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}), expected a JSON-lines manifest") from None
    if not clips:
        raise CorpusError(f"{path}: no clips, expected one JSON object a line")
    return clips


def write_manifest(path: str | Path, clips: Iterable[Clip]) -> None:
    """Write clips as JSON lines that `read_manifest` gives back; the file appears only when it is whole.

    Raises:
        CorpusError: A clip lies outside the manifest's folder, or has what no manifest may hold.
        RunError: The file cannot be written.
    """
    path = Path(path)
    folder = path.parent.resolve()
    text = "".join(_format_clip(clip, folder) + "\n" for clip in clips)
    write_atomically(path, text.encode())


def _recordings(folder: Path) -> list[Path]:
    """Every name with an audio suffix in a folder, sorted; whether it can be decoded is not asked here."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")
    )


def _all_recordings(folder: str | Path, expected: str) -> list[Path]:
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise CorpusError(f"{folder}: no recordings in it; expected {expected}")
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}; run `hark data check` on the corpus") from None


def _format_clip(clip: Clip, folder: Path) -> str:
    """One manifest line; what is unknown is left out."""
    # The clip keeps its own name, even where it is a link to another: splits go by names.
    named = clip.path.parent.resolve() / clip.path.name
    if not (named.is_relative_to(folder) and named.resolve().is_relative_to(folder)):
        raise CorpusError(
            f"{clip.path}: outside {folder}; write the manifest to a folder that holds all its clips"
        )
    values = {**vars(clip), "path": named.relative_to(folder).as_posix()}
    _require_valid(values, str(clip.path))
    return json.dumps({key: value for key, value in values.items() if value is not None}, ensure_ascii=False)


def _parse_line(line: bytes, folder: Path, where: str) -> Clip:
    values = _parse_object(line, where)
    for key in values.keys() - _FIELDS.keys():
        _refuse_key(key, where)
    _require_valid(values, where)
    for key in ("path", "label"):
        if key not in values:
            raise CorpusError(f"{where}: no {key!r}, expected an object with path and label")
    path = _contained(folder, values["path"], where)
    times = {key: float(values[key]) for key in ("start_s", "duration_s") if values.get(key) is not None}
    return Clip(**{"speaker": speaker_of(path.name), **values, **times, "path": path})


def _require_valid(values: Mapping[str, Any], where: str) -> None:
    for key, (expected, is_valid) in _FIELDS.items():
        if key in values and not is_valid(values[key]):
            raise CorpusError(f"{where}: {key} is {_shown(values[key])}, expected {expected}")


def _require_few_lines(path: Path) -> None:
    """Look and count before anything is parsed: no pipe can block, no million clips fill the memory."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise CorpusError(f"{path}: not a regular file, expected a JSON-lines manifest")
    with path.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(partial(file.read, COUNTED_BYTES), b""))
    if lines > MOST_LINES:
        raise CorpusError(f"{path}: {lines} lines, expected at most {MOST_LINES}; cut it in parts")


def _parse_object(line: bytes, where: str) -> dict[str, Any]:
    if len(line) >= LONGEST_LINE_BYTES:
        raise CorpusError(f"{where}: a line of {LONGEST_LINE_BYTES} bytes or more, expected one clip a line")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise CorpusError(f"{where}: not JSON, expected one object a line") from None
    if not isinstance(values, dict):
        raise CorpusError(f"{where}: {_shown(values)}, expected an object with path and label")
    return values


def _refuse_key(key: str, where: str) -> NoReturn:
    near = get_close_matches(key, _FIELDS, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise CorpusError(f"{where}: unknown key {_shown(key)}, expected {', '.join(_FIELDS)}{hint}")


def _contained(folder: Path, relative: str, where: str) -> Path:
    """The path below the folder, links followed; whatever would leave it is refused."""
    try:
        resolved = (folder / relative).resolve()
    except (ValueError, RuntimeError, OSError):
        raise CorpusError(f"{where}: path {_shown(relative)} is not a file name") from None
    if PureWindowsPath(relative).anchor or not resolved.is_relative_to(folder):
        raise CorpusError(f"{where}: path {_shown(relative)} leaves the manifest's folder; copy the clip into it")
    return folder / relative


def _shown(value: object) -> str:
    """A value for a message, never longer than a line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_text(value: object) -> bool:
    """Words and names, without what would command the terminal that they are shown on."""
    return (
        isinstance(value, str)
        and bool(value)
        and not any(unicodedata.category(character) == "Cc" for character in value)
    )


def _is_time(value: object) -> bool:
    # A comparison that NaN, infinity and integers too big for a float fail as well; a bool is no number here.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LATEST_S


# What each key of a manifest line may hold: in words, and as a test.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "path": ("a relative path", _is_text),
    "label": ("a word", _is_text),
    "speaker": ("a name", _is_text),
    "start_s": ("seconds ≥ 0", _is_time),
    "duration_s": ("seconds > 0", lambda value: value is None or (_is_time(value) and value > 0)),
    "split": ("the name of a part", lambda value: value is None or _is_text(value)),
}
