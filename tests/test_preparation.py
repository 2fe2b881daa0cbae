"""Clips are judged and decoded once; what was kept is used only where it is whole and still true."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hark.errors import DecoderLost, RunError
from hark.sound import audio, inspection, preparation
from hark.sound.corpus import Clip
from hark.sound.preparation import Form, Prepared, prepare

UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
SECOND = Form(samples=16_000)
RNG = np.random.default_rng(0)


def noise(seconds: float = 1.0) -> audio.Waveform:
    return RNG.uniform(-0.5, 0.5, round(seconds * 16_000)).astype(np.float32)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Three good clips, the second of half a second, and one that is none."""
    for name, seconds in (("a", 1.0), ("b", 0.5), ("c", 1.5)):
        audio.write(tmp_path / f"{name}.wav", noise(seconds))
    (tmp_path / "d.wav").touch()
    return [Clip(tmp_path / f"{name}.wav", "w", name) for name in "abcd"]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where they are kept."""
    return tmp_path / "cache" / "w.clips"


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were judged, as it goes on."""
    names: list[str] = []
    examine = inspection.examine

    def seen(clip: Clip, **options: float) -> tuple[inspection.Verdict, audio.Waveform]:
        names.append(clip.path.stem)
        return examine(clip, **options)

    monkeypatch.setattr(inspection, "examine", seen)
    return names


def copied(prepared: Prepared) -> Prepared:
    """What stays as it is when somebody spoils the file that it is mapped from."""
    return replace(prepared, sounds=[sound.copy() for sound in prepared.sounds])


def same(one: Prepared, other: Prepared) -> bool:
    return one.inspection == other.inspection and all(map(np.array_equal, one.sounds, other.sounds))


def test_the_sound_is_that_of_the_good_clips_cut_or_padded(clips: list[Clip], kept: Path) -> None:
    prepared = prepare(clips, kept, SECOND)
    assert [clip.speaker for clip, _ in prepared] == ["a", "b", "c"]
    for clip, sound in prepared:
        pcm = audio.to_pcm16(audio.read(clip.path))[:16_000]
        np.testing.assert_array_equal(sound, np.pad(pcm, (0, 16_000 - len(pcm))))
        assert not sound.flags.writeable
    assert [(clip.speaker, verdict.fault) for clip, verdict in prepared.inspection.bad] == [("d", "0 bytes")]


def test_without_a_length_they_are_kept_as_long_as_they_are(clips: list[Clip], kept: Path) -> None:
    prepared = prepare(clips, kept, Form(longest_s=1.2))
    assert [len(sound) for sound in prepared.sounds] == [16_000, 8_000]
    assert [verdict.fault for _, verdict in prepared.inspection.bad] == ["too long", "0 bytes"]


def test_no_clips_are_no_file(kept: Path) -> None:
    assert prepare([], kept, SECOND).sounds == []
    assert not kept.parent.exists()


def test_a_second_start_judges_nothing(clips: list[Clip], kept: Path, examined: list[str]) -> None:
    first = prepare(clips, kept, SECOND)
    assert sorted(examined) == ["a", "b", "c", "d"]
    examined.clear()
    assert same(prepare(clips, kept, SECOND), first)
    assert same(prepare(clips[1:], kept, SECOND), prepare(clips[1:], kept.with_name("other"), SECOND))
    assert sorted(examined) == ["b", "c", "d"]  # for the fresh one


def replaced_in_place(clip: Clip) -> None:
    """Other sound of the same length, its time of modification set back."""
    before = clip.path.stat()
    audio.write(clip.path, noise())
    os.utime(clip.path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        replaced_in_place,
        lambda clip: audio.write(clip.path, noise(2.0)),
        lambda clip: clip.path.unlink(),
        lambda clip: clip.path.chmod(0o600),
    ],
    ids=["replaced", "longer", "gone", "other rights"],
)
def test_a_clip_that_changed_is_judged_again_and_no_other(
    change: Callable[[Clip], object], clips: list[Clip], kept: Path, examined: list[str]
) -> None:
    prepare(clips, kept, SECOND)
    examined.clear()
    change(clips[0])
    prepared = prepare(clips, kept, SECOND)
    assert examined == ["a"]
    assert same(prepared, prepare(clips, kept.with_name("fresh"), SECOND))


def test_parts_of_a_recording_are_told_apart(clips: list[Clip], kept: Path) -> None:
    halves = [Clip(clips[0].path, "w", "s", start_s=start_s, duration_s=0.5) for start_s in (0.0, 0.5)]
    first, second = prepare(halves, kept, Form()).sounds
    np.testing.assert_array_equal(np.concatenate((first, second)), audio.to_pcm16(audio.read(clips[0].path)))


def test_another_form_is_prepared_anew(clips: list[Clip], kept: Path) -> None:
    prepare(clips, kept, SECOND)
    assert [len(sound) for sound in prepare(clips, kept, Form(samples=80)).sounds] == [80, 80, 80]


def test_another_version_is_prepared_anew_without_a_word(
    clips: list[Clip],
    kept: Path,
    examined: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as older:
        older.setattr(preparation, "_MARK", b"hark\0sd0")
        first = copied(prepare(clips, kept, SECOND))
    examined.clear()
    assert same(prepare(clips, kept, SECOND), first)
    assert sorted(examined) == ["a", "b", "c", "d"]
    assert capsys.readouterr().err == ""


@settings(max_examples=60, deadline=None, suppress_health_check=UNCHECKED)
@given(data=st.data())
def test_any_flipped_bit_is_found_told_and_made_good(
    data: st.DataObject, clips: list[Clip], kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = copied(prepare(clips, kept, SECOND))
    whole = bytearray(kept.read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1) | st.integers(len(whole) - 600, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    kept.write_bytes(whole)
    assert same(prepare(clips, kept, SECOND), first)
    assert capsys.readouterr().err == f"{kept}: damaged (its digest differs); all clips are decoded anew\n"
    assert same(prepare(clips, kept, SECOND), first)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("length", [0, 1, 47, 48, 1_000, -1])
def test_a_file_cut_short_is_found_told_and_made_good(
    length: int, clips: list[Clip], kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = copied(prepare(clips, kept, SECOND))
    kept.write_bytes(kept.read_bytes()[:length])
    assert same(prepare(clips, kept, SECOND), first)
    assert "damaged (" in capsys.readouterr().err


def test_a_decoder_that_was_lost_gets_another_chance(
    clips: list[Clip], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been the machine; a verdict for ever would leave a good clip out in silence."""
    monkeypatch.setattr(inspection.audio, "sound", lost_on_the_short_one)
    bad = prepare(clips, kept, SECOND).inspection.bad
    assert [(clip.speaker, verdict.fault) for clip, verdict in bad] == [
        ("b", "the decoder hung"),
        ("d", "0 bytes"),
    ]
    monkeypatch.undo()
    assert [clip.speaker for clip in prepare(clips, kept, SECOND).inspection.good] == ["a", "b", "c"]


def lost_on_the_short_one(recording: audio.Recording, **_: object) -> audio.Waveform:
    if recording.header.frames == 8_000:
        raise DecoderLost("the decoder hung")
    return noise()


def test_processes_that_ask_at_once_wait_for_the_first(clips: list[Clip], kept: Path, tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from hark.sound import inspection, preparation; from hark.sound.corpus import Clip\n"
        "examine = inspection.examine\n"
        "def seen(clip, **options):\n"
        "    os.write(1, clip.path.stem.encode())\n"
        "    return examine(clip, **options)\n"
        "inspection.examine = seen\n"
        "clips = [Clip(Path(path), 'w', 's') for path in sys.argv[2:]]\n"
        "preparation.prepare(clips, Path(sys.argv[1]), preparation.Form(samples=16_000))\n"
    )
    command = [sys.executable, "-c", script, str(kept), *(str(clip.path) for clip in clips)]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    judged = "".join(process.communicate()[0] for process in racing)
    assert [process.returncode for process in racing] == [0, 0, 0]
    assert sorted(judged) == ["a", "b", "c", "d"]


def test_what_a_killed_process_left_is_removed(clips: list[Clip], kept: Path) -> None:
    kept.parent.mkdir()
    (kept.parent / f".tmp-{kept.name}-1").write_bytes(b"half")
    (kept.parent / ".tmp-other.clips-1").write_bytes(b"of a process at work on another corpus")
    prepare(clips, kept, SECOND)
    assert {path.name for path in kept.parent.iterdir()} == {kept.name, f"{kept.name}.lock", ".tmp-other.clips-1"}


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(RunError, match="taken"):
        prepare(clips, tmp_path / "taken" / "w.clips", SECOND)
