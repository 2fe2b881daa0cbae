"""Every kind of damage gets its documented verdict, and no file is touched."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from hark.cli.data import data
from hark.errors import CorpusError, TooManyBadClips
from hark.sound import audio, corpus, inspection
from hark.sound.corpus import Clip

NOISE = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000).astype(np.float32)
PCM = audio.to_pcm16(NOISE).tobytes()


def wav_bytes(
    *,
    riff_bytes: int = 32_036,
    rate: int = 16_000,
    channels: int = 1,
    data_bytes: int = 32_000,
    sound: bytes = PCM,
) -> bytes:
    """A WAV of 16 bits whose header says whatever it is told to."""
    block = channels * 2
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * block % 2**32, block % 2**16, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", data_bytes) + sound
    return b"RIFF" + struct.pack("<I", riff_bytes) + body


def encoded(waveform: np.ndarray, *, rate: int = 16_000, **form: str) -> Callable[[Path], None]:
    return lambda path: soundfile.write(path, waveform, rate, **{"format": "WAV", **form})


def holding(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def verdict_on(path: Path, *, start_s: float = 0.0, duration_s: float | None = None) -> inspection.Verdict:
    return inspection.examine(Clip(path, "w", "s", start_s=start_s, duration_s=duration_s))[0]


def flac_bytes() -> bytes:
    file = BytesIO()
    soundfile.write(file, NOISE, 16_000, format="FLAC")
    return file.getvalue()


# Every row of the promise: how the file comes about, the verdict, how its reason begins.
VERDICTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "sound": (encoded(NOISE), "ok", ""),
    "flac": (encoded(NOISE, format="FLAC"), "convert", "FLAC named .wav"),
    "u8": (encoded(NOISE, subtype="PCM_U8"), "convert", "PCM_U8"),
    "24 bits": (encoded(NOISE, subtype="PCM_24"), "convert", "PCM_24"),
    "44.1 kHz stereo": (encoded(NOISE.reshape(-1, 2), rate=44_100), "convert", "44100 Hz, 2 channels"),
    "outer size lies": (holding(wav_bytes(riff_bytes=2**32 - 1)), "ok", ""),
    "zero bytes": (holding(b""), "quarantine", "0 bytes"),
    "header only": (
        holding(wav_bytes(riff_bytes=36, data_bytes=0, sound=b"")),
        "quarantine",
        "a header without",
    ),
    "half a header": (holding(wav_bytes()[:30]), "quarantine", "cut off before its sound begins"),
    "truncated": (
        holding(wav_bytes(sound=PCM[:20_000])),
        "quarantine",
        "truncated, the header promises 32000 bytes of sound, the file holds 20000",
    ),
    "truncated FLAC": (
        holding(flac_bytes()[:20_000]),
        "quarantine",
        "not decodable (Error : flac decoder lost",
    ),
    "data size lies": (holding(wav_bytes(riff_bytes=36, data_bytes=2**32 - 16)), "quarantine", "truncated"),
    "HTML": (holding(b"<html>404</html>" * 99), "quarantine", "not decodable (Format not recognised)"),
    "NaN": (encoded(np.append(NOISE, np.nan), subtype="FLOAT"), "quarantine", "NaN or infinite"),
    "infinite": (encoded(np.append(NOISE, np.inf), subtype="FLOAT"), "quarantine", "NaN or infinite"),
    "rate 0": (holding(wav_bytes(rate=0)), "quarantine", "0 Hz, expected 1000 to 768000 Hz"),
    "rate 2 GHz": (holding(wav_bytes(rate=2**31 - 1)), "quarantine", "2147483647 Hz"),
    "65,535 channels": (
        holding(wav_bytes(channels=65_535)),
        "quarantine",
        "65535 channels, expected at most 64",
    ),
    "1,000 channels": (
        holding(wav_bytes(channels=1_000)),
        "quarantine",
        "1000 channels, expected at most 64",
    ),
    "two hours": (
        encoded(np.zeros(7_200_000, np.int16), rate=1_000),
        "quarantine",
        "too long",
    ),
    "one sample": (encoded(NOISE[:1]), "quarantine", "too short, 0.0001 s, expected at least 0.1 s"),
    "silent": (encoded(np.zeros(16_000)), "quarantine", "silent, peak 0.000000"),
    "constant": (encoded(np.full(16_000, 0.5)), "quarantine", "silent, peak 0.000000"),
    "link to nothing": (lambda path: path.symlink_to("nowhere"), "quarantine", "symbolic link to nothing"),
    "pipe": (os.mkfifo, "quarantine", "a pipe, expected a regular file"),
    "folder": (Path.mkdir, "quarantine", "a folder, expected a regular file"),
    "nothing": (lambda _: None, "quarantine", "No such file or directory"),
}


@pytest.fixture(params=VERDICTS)
def row(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, str]:
    """The file `a.wav` of one row, with the verdict that it must get."""
    make, kind, reason = VERDICTS[request.param]
    make(tmp_path / "a.wav")
    return tmp_path / "a.wav", kind, reason


@pytest.mark.fault("F9")
def test_every_fault_has_its_documented_verdict(row: tuple[Path, str, str]) -> None:
    path, kind, reason = row
    found = verdict_on(path)
    assert found.kind == kind
    assert found.reason.startswith(reason)
    assert "\n" not in found.reason


def test_nothing_is_modified(row: tuple[Path, str, str]) -> None:
    path, _, _ = row

    def state() -> list[tuple[str, int, int]]:
        return [(p.name, p.lstat().st_mtime_ns, p.lstat().st_size) for p in path.parent.iterdir()]

    before = state()
    verdict_on(path)
    assert state() == before


def test_a_name_without_an_audio_suffix_is_quarantined(tmp_path: Path) -> None:
    encoded(NOISE)(tmp_path / "a.txt")
    found = verdict_on(tmp_path / "a.txt")
    assert found == inspection.Verdict(
        "quarantine", "wrong name, expected one that ends in .flac, .mp3, .ogg, .wav"
    )


def test_the_part_of_a_long_recording_is_judged_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    encoded(np.concatenate([np.zeros(70 * 16_000, np.float32), NOISE]))(path)
    assert verdict_on(path).fault == "too long"
    assert verdict_on(path, start_s=70, duration_s=1).kind == "ok"
    assert verdict_on(path, start_s=1, duration_s=1).fault == "silent"
    assert verdict_on(path, start_s=70.5, duration_s=1).kind == "quarantine"


def clips_in(folder: Path, *, good: int, bad: int) -> list[Clip]:
    for n in range(good + bad):
        content = wav_bytes() if n < good else b""
        (folder / f"{n:03}.wav").write_bytes(content)
    return [Clip(path, "w", path.stem) for path in sorted(folder.iterdir())]


def test_the_good_clips_remain_in_their_order(tmp_path: Path) -> None:
    clips = clips_in(tmp_path, good=3, bad=2)
    found = inspection.inspect_clips(clips)
    assert found.good == clips[:3]
    assert [(clip, verdict.fault) for clip, verdict in found.bad] == [(clip, "0 bytes") for clip in clips[3:]]
    assert found.bad_share == 0.4


def test_conversions_are_noted_with_their_count(tmp_path: Path) -> None:
    for n in range(3):
        encoded(NOISE, rate=8_000)(tmp_path / f"{n}.wav")
    clips = [Clip(path, "w", path.stem) for path in tmp_path.iterdir()]
    assert inspection.inspect_clips(clips).notes == ["3 × converted at every reading: 8000 Hz"]


@pytest.mark.parametrize(("good", "bad", "allowed"), [(99, 1, 0.01), (4, 1, 0.2), (3, 0, 0.0)])
def test_the_allowed_share_of_bad_clips_passes(tmp_path: Path, good: int, bad: int, allowed: float) -> None:
    inspection.inspect_clips(clips_in(tmp_path, good=good, bad=bad)).require(allowed)


@pytest.mark.parametrize(("good", "bad", "allowed"), [(98, 2, 0.01), (0, 1, 1.0), (0, 0, 1.0)])
def test_more_bad_clips_than_allowed_stop_the_training(
    tmp_path: Path, good: int, bad: int, allowed: float
) -> None:
    with pytest.raises(TooManyBadClips, match=f"{bad} of {good + bad} clips are unusable, at most") as caught:
        inspection.inspect_clips(clips_in(tmp_path, good=good, bad=bad)).require(allowed)
    assert caught.value.exit_code == 4


def test_check_lists_every_bad_clip_and_counts_the_faults(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    clips_in(tmp_path / "w", good=2, bad=1)
    result = CliRunner().invoke(data, ["check", str(tmp_path)])
    assert result.stdout.splitlines() == [
        f"{tmp_path}/w/002.wav: 0 bytes, expected a recording",
        "1 × 0 bytes",
        "2 clips are good, 1 bad (33.3%)",
    ]
    assert isinstance(result.exception, TooManyBadClips)
    assert CliRunner().invoke(data, ["check", str(tmp_path), "--max-bad-share", "0.5"]).exit_code == 0


def test_check_looks_at_noises_and_sentences_too(tmp_path: Path) -> None:
    """As long as they may be: a minute is the most for a word only."""
    for folder in ("corpus/w", f"corpus/{corpus.BACKGROUND_FOLDER}", "speech/a/b"):
        (tmp_path / folder).mkdir(parents=True)
        clips_in(tmp_path / folder, good=1, bad=1)
        audio.write(tmp_path / folder / "long.wav", np.resize(NOISE, 61 * audio.SAMPLE_RATE))
    root, speech = tmp_path / "corpus", tmp_path / "speech"

    def bad(*arguments: object) -> list[str]:
        told = CliRunner().invoke(data, ["check", *map(str, arguments), "--max-bad-share", "1"]).stdout
        return [line.split(": ")[0].removeprefix(f"{tmp_path}/") for line in told.splitlines() if ".wav: " in line]

    of_the_corpus = ["corpus/w/001.wav", "corpus/w/long.wav", "corpus/_background_noise_/001.wav"]
    assert bad(root) == of_the_corpus
    assert bad(root, "--speech", speech) == [*of_the_corpus, "speech/a/b/001.wav"]
    misspelt = CliRunner().invoke(data, ["check", str(root), "--speech", str(tmp_path / "speach")])
    assert isinstance(misspelt.exception, CorpusError)


def test_check_speaks_json(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    clips_in(tmp_path / "w", good=2, bad=1)
    result = CliRunner().invoke(data, ["check", str(tmp_path), "--json"])
    assert json.loads(result.stdout) == {
        "good": 2,
        "bad": [{"path": f"{tmp_path}/w/002.wav", "reason": "0 bytes, expected a recording"}],
        "faults": {"0 bytes": 1},
        "notes": [],
    }


def test_the_real_corpus_is_good(shared_data: Path) -> None:
    assert inspection.inspect_clips(corpus.scan(shared_data / "speech_commands")[::20]).bad == []


@pytest.mark.parametrize("count", [0, 1, 50])
def test_clips_examined_at_once_come_in_their_order(tmp_path: Path, count: int) -> None:
    for number in range(count):
        audio.write(tmp_path / f"{number}.wav", np.tile(NOISE[: 2_000 + number], 1 + number % 7))
    clips = [Clip(tmp_path / f"{number}.wav", "w", f"{number}") for number in range(count)]
    found = list(inspection.examine_all(clips))
    assert [clip for clip, _, _ in found] == clips
    for number, (_, verdict, waveform) in enumerate(found):
        assert verdict.kind == "ok"
        np.testing.assert_array_equal(waveform, audio.read(tmp_path / f"{number}.wav"))


@pytest.mark.parametrize(("cores", "at_once"), [(1, 1), (3, 3), (64, inspection.MOST_AT_ONCE)])
def test_whoever_stops_early_waits_for_no_more_than_has_begun(
    cores: int, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there are cores to use, which in a container may be fewer than the machine has."""
    begun: list[Clip] = []
    stopped = threading.Event()

    def examine(clip: Clip, **_: float) -> tuple[None, None]:
        begun.append(clip)
        if clip.speaker != "0":
            stopped.wait(10)
        return None, None

    monkeypatch.setattr(inspection, "examine", examine)
    monkeypatch.setattr(inspection, "usable_cores", lambda: cores)
    examined = inspection.examine_all(Clip(tmp_path, "w", f"{number}") for number in range(1_000))
    next(examined)
    threading.Timer(0.2, stopped.set).start()
    examined.close()
    assert len(begun) <= 1 + at_once


def test_sound_is_read_without_torch() -> None:
    """And without soxr before there is something to resample."""
    script = "import sys, hark.cli.data; print({'torch', 'soxr', 'soundfile', 'scipy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
