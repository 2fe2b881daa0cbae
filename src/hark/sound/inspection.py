"""What is wrong with a clip before training meets it. Files are only ever read.

ok          16 kHz, mono, 16 bits: used as it stands.
convert     decodes, but at another rate, depth or number of channels, lossily, or under the suffix of another
            format. It is used all the same and converted at every reading; `hark data convert` does it once.
quarantine  left out of training: zero bytes; a header without sound; truncated; not audio, whatever its name
            says; NaN or infinite samples; a rate or a number of channels that no recording has; sizes in the
            header that promise more than the file holds; shorter than 0.1 s; longer than a minute; silent;
            unreadable; a link to nothing; a folder, pipe or device; a name without an audio suffix; what
            crashes its decoder, or takes it over 10 s or 1 GiB.

A wrong size in a WAV's outermost header alone hides no sound: such a file is ok.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np

from hark.errors import AudioError, DecoderLost, TooManyBadClips
from hark.resources import usable_cores
from hark.sound import audio
from hark.sound.corpus import AUDIO_SUFFIXES, Clip

SHORTEST_S = 0.1
LONGEST_S = 60.0
# -80 dB of full scale, three steps of 16 bits: below the noise of any microphone.
SILENCE_PEAK = 1e-4
MAX_BAD_SHARE = 0.01
MOST_AT_ONCE = 4

_FORMATS = {".wav": ("WAV", "WAVEX", "RF64"), ".flac": ("FLAC",), ".ogg": ("OGG",), ".mp3": ("MP3",)}


@dataclass(frozen=True)
class Verdict:
    """What becomes of a clip, and why; the reason is empty where there is nothing to say."""

    kind: Literal["ok", "convert", "quarantine"]
    reason: str = ""
    is_lasting: bool = True
    """Whether the same file would get it again; a decoder that hung may have done so on a machine at its limit."""

    @property
    def fault(self) -> str:
        """The reason without its particulars: all up to the first comma."""
        return self.reason.split(",")[0]


@dataclass(frozen=True)
class Inspection:
    """The usable clips, the others with their verdicts, and what to know about the usable ones."""

    good: list[Clip]
    bad: list[tuple[Clip, Verdict]]
    notes: list[str]

    @classmethod
    def of_all(cls, parts: Iterable[Inspection]) -> Inspection:
        """Several inspections as one."""
        parts = list(parts)
        return cls(*([one for part in parts for one in getattr(part, field.name)] for field in fields(cls)))

    @property
    def bad_share(self) -> float:
        """Share of the clips that cannot be used, 0 to 1."""
        return len(self.bad) / max(1, len(self.good) + len(self.bad))

    def require(self, max_bad_share: float = MAX_BAD_SHARE) -> None:
        """Stop here rather than train on what is left.

        Raises:
            TooManyBadClips: More than `max_bad_share` of the clips cannot be used, or none can.
        """
        if self.good and self.bad_share <= max_bad_share:
            return
        example = f", the first: {self.bad[0][0].path}: {self.bad[0][1].reason}" if self.bad else ""
        raise TooManyBadClips(
            f"{len(self.bad)} of {len(self.good) + len(self.bad)} clips are unusable, at most "
            f"{max_bad_share:.1%} allowed{example}; `hark data check` lists them all"
        )


def inspect_clips(clips: Iterable[Clip], *, longest_s: float = LONGEST_S) -> Inspection:
    """`examine` every clip; nothing is raised for a bad one."""
    return summed_up((clip, verdict) for clip, verdict, _ in examine_all(clips, longest_s=longest_s))


def summed_up(verdicts: Iterable[tuple[Clip, Verdict]]) -> Inspection:
    """An inspection from its verdicts, in their order."""
    good, bad, conversions = [], [], Counter[str]()
    for clip, verdict in verdicts:
        if verdict.kind == "quarantine":
            bad.append((clip, verdict))
            continue
        good.append(clip)
        if verdict.kind == "convert":
            conversions[verdict.reason] += 1
    notes = [f"{count} × converted at every reading: {why}" for why, count in conversions.most_common()]
    return Inspection(good, bad, notes)


def examine_all(
    clips: Iterable[Clip], *, longest_s: float = LONGEST_S
) -> Iterator[tuple[Clip, Verdict, audio.Waveform]]:
    """`examine` each clip, in order but several at once, each thread with a decoder of its own."""
    begun: deque[tuple[Clip, Future[tuple[Verdict, audio.Waveform]]]] = deque()
    at_once = min(MOST_AT_ONCE, usable_cores())
    pool = ThreadPoolExecutor(at_once)
    try:
        for clip in clips:
            begun.append((clip, pool.submit(examine, clip, longest_s=longest_s)))
            if len(begun) > 2 * at_once:
                first, done = begun.popleft()
                yield first, *done.result()
        for clip, done in begun:
            yield clip, *done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def examine(clip: Clip, *, longest_s: float = LONGEST_S) -> tuple[Verdict, audio.Waveform]:
    """Judge a clip, and decode it on the way.

    Args:
        clip: Its file need not exist.
        longest_s: What lasts longer is quarantined.

    Returns:
        The verdict; and the waveform `(samples,)` at 16 kHz, empty for what is quarantined.
    """
    nothing = np.zeros(0, np.float32)
    try:
        with audio.opened(clip.path) as recording:
            header = recording.header
            length_s = header.duration_s - clip.start_s if clip.duration_s is None else clip.duration_s
            if fault := _wrong_suffix(clip.path) or _too_short(length_s) or _too_long(length_s, longest_s):
                return Verdict("quarantine", fault), nothing
            waveform = audio.sound(recording, start_s=clip.start_s, duration_s=clip.duration_s)
    except AudioError as error:
        reason = str(error).removeprefix(f"{clip.path}: ")
        return Verdict("quarantine", reason, not isinstance(error, DecoderLost)), nothing
    if fault := _silent(waveform):
        return Verdict("quarantine", fault), nothing
    detours = [*_foreign_format(clip.path, header), *_foreign_sound(header)]
    return Verdict("convert", ", ".join(detours)) if detours else Verdict("ok"), waveform


def _wrong_suffix(path: Path) -> str:
    known = ", ".join(sorted(AUDIO_SUFFIXES))
    return "" if path.suffix.lower() in AUDIO_SUFFIXES else f"wrong name, expected one that ends in {known}"


def _too_short(length_s: float) -> str:
    return f"too short, {length_s:.4f} s, expected at least {SHORTEST_S} s" if length_s < SHORTEST_S else ""


def _too_long(length_s: float, longest_s: float) -> str:
    way_out = "name parts of it in a manifest"
    return (
        f"too long, {length_s:.0f} s, expected at most {longest_s:.0f} s; {way_out}"
        if length_s > longest_s
        else ""
    )


def _silent(waveform: audio.Waveform) -> str:
    """A constant is silence too."""
    swing = float(np.ptp(waveform)) / 2
    return f"silent, peak {swing:.6f}, expected at least {SILENCE_PEAK}" if swing < SILENCE_PEAK else ""


def _foreign_format(path: Path, header: audio.AudioInfo) -> list[str]:
    suffix = path.suffix.lower()
    return [] if header.format in _FORMATS[suffix] else [f"{header.format} named {suffix}"]


def _foreign_sound(header: audio.AudioInfo) -> list[str]:
    """Every way in which a header differs from 16 kHz, mono, 16 bits."""
    return [
        *([f"{header.sample_rate} Hz"] if header.sample_rate != audio.SAMPLE_RATE else []),
        *([f"{header.channels} channels"] if header.channels != 1 else []),
        *([header.subtype] if header.subtype != "PCM_16" else []),
    ]
