"""Reading and writing sound: exact where it can be, one clear line where it cannot."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from hark.errors import AudioError
from hark.sound import audio


def tone(*, sample_rate: int = 16_000, seconds: float = 1.0, hertz: float = 440.0) -> audio.Waveform:
    """A sine of half the full scale, `(samples,)`."""
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def test_every_16_bit_value_survives_the_round_trip() -> None:
    every = np.arange(-32_768, 32_768).astype(np.int16)
    assert np.array_equal(audio.to_pcm16(audio.from_pcm16(every)), every)


def test_values_out_of_range_are_clipped() -> None:
    assert audio.to_pcm16(np.array([-7.0, -1.0, 0.0, 1.0, 7.0])).tolist() == [
        -32_768,
        -32_768,
        0,
        32_767,
        32_767,
    ]


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "noise.wav"
    pcm = np.random.default_rng(0).integers(-32_768, 32_768, 5_000).astype(np.int16)
    audio.write(path, audio.from_pcm16(pcm))
    assert np.array_equal(audio.read(path), audio.from_pcm16(pcm))
    assert audio.info(path) == audio.AudioInfo(16_000, 1, 5_000, "WAV", "PCM_16")


@settings(max_examples=25, deadline=None)
@given(
    sample_rate=st.sampled_from([8_000, 16_000, 22_050, 44_100]),
    samples=st.integers(1, 30_000),
    block_samples=st.integers(1, 20_000),
)
def test_the_blocks_joined_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, sample_rate: int, samples: int, block_samples: int
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "noise.wav"
    audio.write(path, np.random.default_rng(samples).uniform(-1, 1, samples), sample_rate=sample_rate)
    pieces = list(audio.blocks(path, block_samples=block_samples))
    assert np.array_equal(np.concatenate([np.zeros(0, np.float32), *pieces]), audio.read(path))
    assert {len(piece) for piece in pieces[:-1]} <= {block_samples}
    assert all(0 < len(piece) <= block_samples for piece in pieces[-1:])


def test_blocks_come_before_the_end_is_read(tmp_path: Path) -> None:
    """The first block is out before the fault at the end is met, so the whole is never in memory."""
    waveform = np.zeros(10 * audio.BLOCK_SAMPLES, np.float32)
    waveform[-1] = np.nan
    soundfile.write(tmp_path / "nan.wav", waveform, 16_000, subtype="FLOAT")
    stream = audio.blocks(tmp_path / "nan.wav")
    assert len(next(stream)) == audio.BLOCK_SAMPLES
    with pytest.raises(AudioError, match="NaN or infinite"):
        list(stream)


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_another_rate_gives_the_same_tone(tmp_path: Path, sample_rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(sample_rate=sample_rate), sample_rate, subtype="FLOAT")
    found = audio.read(tmp_path / "a.wav")
    assert len(found) == 16_000
    # The filter rings at the borders, where the tone is cut off.
    assert np.abs(found - tone())[1_000:-1_000].max() < 1e-4


@pytest.mark.parametrize(
    ("suffix", "subtype", "error"),
    [
        ("wav", "PCM_U8", 1e-2),
        ("wav", "PCM_24", 1e-6),
        ("wav", "DOUBLE", 1e-7),
        ("wav", "ULAW", 2e-2),
        ("flac", "PCM_16", 1e-4),
        ("ogg", "VORBIS", 5e-2),
        ("mp3", "MPEG_LAYER_III", 5e-2),
    ],
)
def test_any_format_and_depth_is_read(tmp_path: Path, suffix: str, subtype: str, error: float) -> None:
    soundfile.write(tmp_path / f"a.{suffix}", tone(), 16_000, subtype=subtype)
    assert np.abs(audio.read(tmp_path / f"a.{suffix}") - tone())[1_000:-1_000].max() < error


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.tile([0.5, -0.25], (100, 1)), 16_000)
    assert audio.read(tmp_path / "a.wav").tolist() == [0.125] * 100


@given(first_ms=st.integers(0, 900), length_ms=st.integers(1, 100))
def test_a_part_is_a_slice_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, first_ms: int, length_ms: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "part.wav"
    audio.write(path, tone())
    part = audio.read(path, start_s=first_ms / 1000, duration_s=length_ms / 1000)
    assert np.array_equal(part, audio.read(path)[first_ms * 16 : (first_ms + length_ms) * 16])


@pytest.mark.parametrize(("start_s", "duration_s"), [(1.5, None), (0.5, 0.6), (-0.1, 0.5), (0.2, 0.0)])
def test_a_part_beyond_the_recording_is_refused(tmp_path: Path, start_s: float, duration_s: float | None) -> None:
    audio.write(tmp_path / "a.wav", tone())
    with pytest.raises(AudioError, match=r"asked for, it is 1\.000 s long"):
        audio.read(tmp_path / "a.wav", start_s=start_s, duration_s=duration_s)


def test_a_truncated_recording_is_an_error(tmp_path: Path) -> None:
    """The library gives the half that is there without a word."""
    path = tmp_path / "half.wav"
    audio.write(path, tone())
    path.write_bytes(path.read_bytes()[:16_044])
    assert len(soundfile.read(path)[0]) == 8_000
    with pytest.raises(
        AudioError, match="truncated, the header promises 32000 bytes of sound, the file holds 16000"
    ):
        audio.read(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_is_either_decoded_or_an_audio_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Flipped header bytes and cut files: never another exception, never NaN."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.wav"
    audio.write(path, tone(seconds=0.05))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 43))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = audio.read(path)
    except AudioError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
    else:
        assert np.isfinite(found).all()


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="a pipe, expected a regular file"):
        audio.read(tmp_path / "pipe.wav")


def test_too_much_sound_at_once_is_refused(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", tone())
    with pytest.raises(AudioError, match=r"1\.0 s of sound, expected at most 0\.5 s; read it in blocks"):
        audio.read(tmp_path / "a.wav", longest_s=0.5)


def test_a_refused_waveform_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    audio.write(path, tone())
    before = path.read_bytes()
    with pytest.raises(AudioError, match=r"shape \(2,\), expected \(samples,\) of finite values"):
        audio.write(path, np.array([0.0, np.nan]))
    assert path.read_bytes() == before


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken.wav").mkdir()
    with pytest.raises(AudioError, match=r"taken\.wav: cannot be written \(Is a directory\)"):
        audio.write(tmp_path / "taken.wav", tone())
    assert [path.name for path in tmp_path.iterdir()] == ["taken.wav"]


def test_a_real_recording_is_one_second_of_speech(shared_data: Path) -> None:
    sound = audio.read(min((shared_data / "speech_commands" / "happy").iterdir()))
    assert sound.shape == (16_000,)
    assert 0.01 < np.abs(sound).max() <= 1
