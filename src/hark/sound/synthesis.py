"""Speech from text with espeak-ng: clips of any word or phrase by hundreds of synthetic speakers.

Needs the extra `synthesis` (`pip install "hark-kws[synthesis]"`). espeak-ng is GPL-3.0; it runs in a helper
process of its own (`hark.sound._espeak`) and never becomes part of hark's.

A speaker is a voice and a variant; speed, pitch and intonation change from take to take. Everything follows
from the text, the voice and the seed: the same call gives the same samples.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, product
from pathlib import Path

import numpy as np

from hark.errors import SynthesisError, UsageError
from hark.files import TEMPORARY
from hark.sound import audio
from hark.sound._espeak import SAMPLE_RATE_HZ, Espeak
from hark.sound.audio import SAMPLE_RATE, Waveform
from hark.sound.corpus import BACKGROUND_FOLDER, SPEAKER_MARK, Clip, write_manifest

MANIFEST = "manifest.jsonl"
LONGEST_TEXT = 300
TIMEOUT_S = 30.0
SPEEDS_WPM, PITCHES, INTONATIONS = (80, 450), (0, 99), (0, 100)
# Takes are drawn from these; people rarely speak farther out.
NATURAL_SPEEDS_WPM, NATURAL_PITCHES, NATURAL_INTONATIONS = (130, 220), (25, 75), (25, 75)
FASTEST_NATURAL_WPM = 260
TAKES_PER_SPEAKER = 2
AUDIBLE = 0.005  # share of the peak below which the ends of an utterance count as silence
# `en-Shaw` reads another alphabet; these variants are robots, monsters and whispers, not people.
UNUSUAL_VOICES = ("gmw/en-Shaw",)
UNUSUAL_VARIANTS = ("robo", "whisper", "croak", "demonic", "tweaky", "fast", "kaukovalta")


@dataclass(frozen=True)
class Voice:
    """How a text is spoken.

    Attributes:
        name: espeak-ng's name of the voice, like `gmw/en-US`.
        variant: who speaks with it, like `f2`; empty for the voice's own.
        speed_wpm: words a minute, 80 to 450.
        pitch: 0 to 99.
        intonation: range of the pitch, 0 to 100.
    """

    name: str = "gmw/en-US"
    variant: str = ""
    speed_wpm: int = 175
    pitch: int = 50
    intonation: int = 50

    def __post_init__(self) -> None:
        limits = {"speed_wpm": SPEEDS_WPM, "pitch": PITCHES, "intonation": INTONATIONS}
        for field, (lowest, highest) in limits.items():
            if not lowest <= getattr(self, field) <= highest:
                raise UsageError(f"{field} is {getattr(self, field)}, expected {lowest} to {highest}")

    @property
    def speaker(self) -> str:
        """Eight hex digits that stand for voice and variant, as Speech Commands names its speakers."""
        return hashlib.sha1(f"{self.name}+{self.variant}".encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Utterance:
    """A text as spoken: waveform (samples,) from its first sound to its last."""

    waveform: Waveform
    text: str
    voice: Voice


@dataclass(frozen=True)
class SpokenWord:
    """Where in a stream a word is, in seconds from the stream's start."""

    text: str
    speaker: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Stream:
    """A recording of several words: waveform (samples,) and where each of them is."""

    waveform: Waveform
    words: tuple[SpokenWord, ...]


def synthesize(
    texts_and_voices: Iterable[tuple[str, Voice]],
    *,
    sample_rate: int = SAMPLE_RATE,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[Utterance]:
    """Speak each text with its voice, one after the other, silence at both ends removed.

    Raises:
        UsageError: A text is empty, too long or has control characters.
        SynthesisError: The extra is missing, a voice does not exist, a text makes no sound, or the helper
            died or gave no answer within `timeout_s`; the next call starts a new one.
    """
    with Espeak(timeout_s=timeout_s) as espeak:
        for text, voice in texts_and_voices:
            yield _say(espeak, text, voice, sample_rate)


def cast(speakers: int | None = None, *, seed: int = 0, language: str = "en") -> list[Voice]:
    """Different speakers of a language in an order drawn from `seed`, all of them by default.

    Args:
        speakers: how many; the first n of more speakers are the same n.
        seed: decides who they are and how they speak.
        language: as voices are named: `en` is any English, `en-US` one accent.

    Raises:
        UsageError: The language is not there, or has fewer speakers.
    """
    with Espeak() as espeak:
        everyone = _everyone(espeak, seed, language)
    if speakers is not None and speakers > len(everyone):
        raise UsageError(f"{speakers} speakers asked for, {language!r} has {len(everyone)}; ask for fewer")
    return everyone[:speakers]


def synthesize_corpus(
    words: Sequence[str],
    out_dir: str | Path,
    *,
    clips_per_word: int = 100,
    seed: int = 0,
    clip_s: float = 1.0,
    language: str = "en",
) -> list[Clip]:
    """Write a corpus in the layout of Speech Commands; `corpus_takes`, all at once."""
    takes = corpus_takes(
        words, out_dir, clips_per_word=clips_per_word, seed=seed, clip_s=clip_s, language=language
    )
    return list(takes)


def corpus_takes(
    words: Sequence[str],
    out_dir: str | Path,
    *,
    clips_per_word: int = 100,
    seed: int = 0,
    clip_s: float = 1.0,
    language: str = "en",
) -> Iterator[Clip]:
    """Write a corpus in the layout of Speech Commands, and give out each clip as it is made.

    `<word>/<speaker>_nohash_<take>.wav` lasts `clip_s` and has the word at a random place. All words have the
    same speakers, about two takes of each. Beside them are two noise recordings and `manifest.jsonl`. The
    folder appears under its name only when the last clip is done.

    Raises:
        UsageError: The folder has something in it, or a word cannot be spoken or name a folder.
        SynthesisError: As for `synthesize`; or a word does not fit into `clip_s`.
    """
    _check_words(words)
    target = Path(out_dir).resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target}: exists already, expected a new folder; choose another or remove it")
    building = target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}")
    clips = []
    try:
        _write_background(building / BACKGROUND_FOLDER, seed)
        for clip in _takes(words, building, clips_per_word, seed, clip_s, language):
            clips.append(clip)
            yield replace(clip, path=target / clip.path.relative_to(building))
        write_manifest(building / MANIFEST, clips)
        building.replace(target)
    except OSError as error:
        raise SynthesisError(f"{target}: cannot be written ({error.strerror}); choose another folder") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def synthesize_stream(
    words: Sequence[str],
    voices: Sequence[Voice],
    *,
    seed: int = 0,
    gap_s: tuple[float, float] = (0.5, 1.5),
    sample_rate: int = SAMPLE_RATE,
) -> Stream:
    """One recording of the words in their order, with silence before, between and after them.

    Args:
        words: what is said; words may come again.
        voices: who says it, in turn.
        seed: decides the gaps.
        gap_s: shortest and longest gap, in seconds.
        sample_rate: in Hz.

    Raises:
        UsageError, SynthesisError: As for `synthesize`.
    """
    if not voices:
        raise UsageError("no voices, expected at least one to say the words; take some from cast()")
    rng = np.random.default_rng(seed)
    pieces = [_gap(gap_s, sample_rate, rng)]
    spoken = []
    at = len(pieces[0])
    for said in synthesize(zip(words, cycle(voices), strict=False), sample_rate=sample_rate):
        end = at + len(said.waveform)
        spoken.append(SpokenWord(said.text, said.voice.speaker, at / sample_rate, end / sample_rate))
        pieces += [said.waveform, _gap(gap_s, sample_rate, rng)]
        at = end + len(pieces[-1])
    return Stream(np.concatenate(pieces), tuple(spoken))


def _everyone(espeak: Espeak, seed: int, language: str) -> list[Voice]:
    """Every speaker of a language, shuffled, with a manner of their own."""
    languages = {name: name.split("/")[-1] for name in espeak.voices if name not in UNUSUAL_VOICES}
    names = [name for name, own in languages.items() if own == language or own.startswith(f"{language}-")]
    if not names:
        raise UsageError(f"no voice for language {language!r}, expected a code like en, en-US, de or fr")
    variants = [v for v in espeak.variants if not any(part in v.lower() for part in UNUSUAL_VARIANTS)]
    pairs = list(product(names, ["", *variants]))
    rng = np.random.default_rng(seed)
    return [_in_a_manner(Voice(*pairs[i]), rng) for i in rng.permutation(len(pairs))]


def _in_a_manner(voice: Voice, rng: np.random.Generator) -> Voice:
    return replace(
        voice,
        speed_wpm=int(rng.integers(*NATURAL_SPEEDS_WPM, endpoint=True)),
        pitch=int(rng.integers(*NATURAL_PITCHES, endpoint=True)),
        intonation=int(rng.integers(*NATURAL_INTONATIONS, endpoint=True)),
    )


def _takes(
    words: Sequence[str], root: Path, clips_per_word: int, seed: int, clip_s: float, language: str
) -> Iterator[Clip]:
    samples = round(clip_s * SAMPLE_RATE)
    with Espeak(timeout_s=TIMEOUT_S) as espeak:
        everyone = _everyone(espeak, seed, language)
        voices = everyone[: math.ceil(clips_per_word / TAKES_PER_SPEAKER)]
        for word in words:
            (root / word).mkdir()
            for index in range(clips_per_word):
                take, who = divmod(index, len(voices))
                rng = np.random.default_rng((seed, *word.encode(), index))
                said = _say_within(espeak, word, _once_more(voices[who], rng), samples)
                path = root / word / f"{said.voice.speaker}{SPEAKER_MARK}{take}.wav"
                audio.write(path, _placed(said.waveform, samples, rng))
                yield Clip(path=path, label=word, speaker=said.voice.speaker)


def _once_more(voice: Voice, rng: np.random.Generator) -> Voice:
    """The same speaker as they say it this time: up to 15 % faster or slower, a little higher or lower."""
    return replace(
        voice,
        speed_wpm=round(voice.speed_wpm * rng.uniform(0.85, 1.15)),
        pitch=voice.pitch + int(rng.integers(-8, 8, endpoint=True)),
        intonation=voice.intonation + int(rng.integers(-15, 15, endpoint=True)),
    )


def _say_within(espeak: Espeak, text: str, voice: Voice, samples: int) -> Utterance:
    """Speak it faster until it fits, as long as that sounds natural."""
    while True:
        said = _say(espeak, text, voice, SAMPLE_RATE)
        if len(said.waveform) <= samples:
            return said
        if voice.speed_wpm == FASTEST_NATURAL_WPM:
            break
        faster = math.ceil(1.05 * voice.speed_wpm * len(said.waveform) / samples)
        voice = replace(voice, speed_wpm=min(faster, FASTEST_NATURAL_WPM))
    lasts_s, clip_s = len(said.waveform) / SAMPLE_RATE, samples / SAMPLE_RATE
    raise SynthesisError(
        f"{text!r} lasts {lasts_s:.2f} s spoken fast, expected at most {clip_s:g} s; ask for longer clips"
    )


def _say(espeak: Espeak, text: str, voice: Voice, sample_rate: int) -> Utterance:
    import soxr

    _check_text(text)
    manner = {key: value for key, value in asdict(voice).items() if key != "name"}
    pcm = espeak.say({"text": text, "voice": voice.name, **manner})
    spoken = audio.from_pcm16(np.frombuffer(pcm, dtype=np.int16))
    resampled = soxr.resample(spoken, SAMPLE_RATE_HZ, sample_rate, quality="HQ")
    # Some variants drive espeak-ng into clipping, and what was clipped overshoots when it is resampled.
    waveform = _without_silence(np.clip(resampled, -1.0, 1.0))
    if not len(waveform):
        raise SynthesisError(f"{text!r} by {voice.name} makes no sound; write it as it is spoken")
    return Utterance(waveform, text, voice)


def _without_silence(waveform: Waveform) -> Waveform:
    level = np.abs(waveform)
    heard = np.flatnonzero(level > AUDIBLE * level.max(initial=0.0))
    return waveform[heard[0] : heard[-1] + 1] if len(heard) else waveform[:0]


def _placed(waveform: Waveform, samples: int, rng: np.random.Generator) -> Waveform:
    start = int(rng.integers(samples - len(waveform), endpoint=True))
    clip = np.zeros(samples, dtype=np.float32)
    clip[start : start + len(waveform)] = waveform
    return clip


def _gap(gap_s: tuple[float, float], sample_rate: int, rng: np.random.Generator) -> Waveform:
    return np.zeros(round(rng.uniform(*gap_s) * sample_rate), dtype=np.float32)


def _write_background(folder: Path, seed: int) -> None:
    """Noise to train with, as in Speech Commands: 20 s each of white and pink."""
    folder.mkdir(parents=True)
    white = np.random.default_rng(seed).standard_normal(20 * SAMPLE_RATE)
    spectrum = np.fft.rfft(white)
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)))
    for name, noise in (("white_noise", white), ("pink_noise", pink)):
        audio.write(folder / f"{name}.wav", 0.1 * noise / noise.std())


def _check_text(text: str) -> None:
    if not text.strip():
        raise UsageError("nothing to say: the text is empty, expected a word or phrase")
    if len(text) > LONGEST_TEXT:
        raise UsageError(f"{text[:40]!r}… has {len(text)} characters, expected at most {LONGEST_TEXT}")
    if any(unicodedata.category(character).startswith("C") for character in text):
        raise UsageError(f"{text!r} has control characters, expected plain text; leave them out")


def _check_words(words: Sequence[str]) -> None:
    """Each word can be spoken and name a folder of its own on any file system."""
    if not words:
        raise UsageError("no words, expected at least one to speak")
    for word in words:
        _check_text(word)
        if word != word.strip() or word.startswith(("_", ".")) or set(word) & set('/\\:*?"<>|'):
            raise UsageError(f"{word!r} cannot name a folder, expected letters, digits and single spaces")
    if len({word.casefold() for word in words}) < len(words):
        raise UsageError(f"a word comes twice in {', '.join(words)}; name each once")
