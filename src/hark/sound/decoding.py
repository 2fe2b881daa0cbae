"""FLAC, OGG, MP3 and whatever else libsndfile reads, decoded in a helper process: both ends.

A decoder is a large program in C, and files come from anywhere. `python -m hark.sound.decoding` is the helper:
with 1 GiB of memory and 10 s for a file, it can crash or hang, and the file is named; the next gets a new one.

    > {"path": "/corpus/a.flac", "first": 0}
    < {"sample_rate": 16000, "channels": 1, "frames": 16000, "format": "FLAC", "subtype": "PCM_16"}
      and the samples from the first asked for, as float32, channels averaged, 65,536 at most

The answer to the first question about a file is all there is of a clip: one exchange, not three.
Errors leave the file's name to the caller.
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hark.confinement import Answer, Helper, HelperLost, HelperRefused, Limits, serve
from hark.errors import AudioError, DecoderLost
from hark.sound.recording import BLOCK_SAMPLES, AudioInfo, Waveform, mono, require_regular_file, require_sane

if TYPE_CHECKING:
    from soundfile import SoundFile

LIMITS = Limits(memory_bytes=1 << 30, answer_s=10.0, answer_bytes=4 * BLOCK_SAMPLES)

# libsndfile's log of a header that promises more than the file holds: `data : 32000 (should be 20000)`.
_BROKEN_PROMISE = re.compile(r": (\d+) \(should be (\d+)\)")
# What libsndfile says of a stream that never states its length.
_UNKNOWN_FRAMES = 1 << 62
_PLAIN_WORDS = {"Internal error : SF_INFO struct incomplete": "impossible sample rate"}


class Encoded:
    """A file in a format that must be decoded.

    Attributes:
        header: What the decoder says it holds, checked.
    """

    def __init__(self, path: Path) -> None:
        """Decode the header and the first block.

        Raises:
            AudioError: Not a readable recording, or damaged, or no recording has such a header.
            DecoderLost: The decoder crashed or hung.
        """
        # The helper keeps the folder it was started in, this process may leave it.
        self._path = str(path.absolute())
        self._patience_s = LIMITS.answer_s
        self._at, self._block = 0, np.zeros(0, np.float32)
        told = self._decode(0)
        try:
            self.header = _typed(**told)
        except (TypeError, ValueError, OverflowError):
            raise DecoderLost("the decoder answered nonsense, expected a header") from None
        require_sane(self.header)

    def piece(self, first: int, last: int) -> Waveform:
        """Samples from `first` to before `last` at the file's own rate, channels averaged; or fewer."""
        if not self._at <= first < self._at + len(self._block):
            self._decode(first)
            self._patience_s += len(self._block) / self.header.sample_rate
        return self._block[first - self._at : last - self._at]

    def _decode(self, first: int) -> dict[str, Any]:
        """The header, and the block from `first` on; ten seconds for all, and as long again as the sound lasts."""
        asked_s = time.monotonic()
        question = {"path": self._path, "first": first}
        try:
            told, raw = _helper().ask(question, within_s=self._patience_s)
        except HelperRefused as error:
            raise AudioError(str(error)) from None
        except HelperLost as error:
            raise DecoderLost(f"the decoder {error}, expected WAV, FLAC, OGG or MP3") from None
        self._patience_s -= time.monotonic() - asked_s
        self._at, self._block = first, np.frombuffer(raw, np.float32, len(raw) // 4)
        return told


def _typed(*, sample_rate: Any, channels: Any, frames: Any, format: Any, subtype: Any) -> AudioInfo:
    """What the helper tells as what it should be: a hostile file may have taken the helper over."""
    return AudioInfo(int(sample_rate), int(channels), int(frames), str(format), str(subtype))


_own = threading.local()


def _helper() -> Helper:
    """This thread's helper; a fork must not share the pipes of its parent."""
    if getattr(_own, "process_id", None) != os.getpid():
        _own.process_id, _own.helper = os.getpid(), Helper("hark.sound.decoding", LIMITS)
    helper: Helper = _own.helper
    return helper


class _Decoder:
    """The far end: the last file asked for stays open."""

    def __init__(self) -> None:
        import soundfile

        self._soundfile = soundfile
        self._sound: SoundFile | None = None
        self._path = ""

    def answer(self, question: dict[str, Any]) -> Answer:
        try:
            sound = self._opened(**question)
            header = _checked_header(sound)
            if sound.tell() != question["first"]:
                sound.seek(question["first"])
            frames = sound.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)
        except self._soundfile.LibsndfileError as error:
            why = error.error_string.strip().rstrip(".") or "libsndfile gives no reason"
            why = _PLAIN_WORDS.get(why, why)
            raise AudioError(f"not decodable ({why}), expected WAV, FLAC, OGG or MP3") from None
        except OSError as error:
            raise AudioError(f"cannot be read ({error.strerror})") from None
        return vars(header), np.ascontiguousarray(mono(frames)).data.cast("B")

    def _opened(self, path: str, first: int) -> SoundFile:
        """The file asked for; anew at its beginning, since it may have changed, and if another was asked for."""
        if self._sound is None or self._path != path or first == 0:
            if self._sound is not None:
                self._sound.close()
                self._sound = None
            require_regular_file(Path(path))
            # A descriptor, not a name: Python's error says why a file cannot be opened, libsndfile's doesn't.
            with Path(path).open("rb") as file:
                self._sound = self._soundfile.SoundFile(os.dup(file.fileno()), closefd=True)
            self._path = path
        return self._sound


def _checked_header(sound: SoundFile) -> AudioInfo:
    """Refuse what libsndfile lets pass: lengths that are not true or not known, headers that no recording has."""
    for promised, held in _BROKEN_PROMISE.findall(sound.extra_info):
        if int(promised) > int(held):
            raise AudioError(f"truncated, the header promises {promised} bytes, the file holds {held}")
    if sound.frames >= _UNKNOWN_FRAMES:
        raise AudioError("the header does not say how long it is; convert it with ffmpeg first")
    header = AudioInfo(sound.samplerate, sound.channels, sound.frames, sound.format, sound.subtype)
    require_sane(header)
    return header


if __name__ == "__main__":
    serve(_Decoder().answer, LIMITS)
