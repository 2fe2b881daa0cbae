"""Synthesis: what is spoken is heard, differs by speaker, repeats by seed; a sick helper is never a hang."""

from __future__ import annotations

import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner

from hark.cli.synthesize import synthesize as command
from hark.confinement import Helper, HelperLost
from hark.errors import SynthesisError, UsageError
from hark.sound import _espeak, audio, corpus, synthesis
from hark.sound.synthesis import Voice, cast, synthesize, synthesize_corpus, synthesize_stream

needs_espeak = pytest.mark.skipif(
    find_spec("espeakng_loader") is None, reason='no espeak-ng: pip install "hark-kws[synthesis]"'
)


def say(*texts_and_voices: tuple[str, Voice]) -> list[synthesis.Utterance]:
    return list(synthesize(texts_and_voices))


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthesis") / "made"
    synthesize_corpus(["hey hark", "tree"], folder, clips_per_word=6, seed=3)
    return folder


@needs_espeak
def test_a_word_is_heard_and_lasts_less_than_a_second() -> None:
    for said in say(*(("happy", voice) for voice in cast(40))):
        assert said.waveform.dtype == np.float32
        assert 0.15 < len(said.waveform) / 16_000 < 0.95
        assert 0.05 < np.abs(said.waveform).max() <= 1
        assert np.sqrt(np.mean(said.waveform**2)) > 0.01


@needs_espeak
def test_every_voice_sounds_different() -> None:
    heard = say(*(("house", voice) for voice in cast(20)))
    assert len({said.waveform.tobytes() for said in heard}) == 20


@needs_espeak
def test_an_utterance_depends_on_nothing_that_was_said_before() -> None:
    voice, other = Voice("gmw/en-US", "klatt3"), Voice("roa/fr", "f2", speed_wpm=300)
    first, _, again = say(("hey hark", voice), ("bonjour", other), ("hey hark", voice))
    np.testing.assert_array_equal(first.waveform, again.waveform)
    np.testing.assert_array_equal(first.waveform, say(("hey hark", voice))[0].waveform)


@needs_espeak
def test_speed_and_rate_change_the_length_as_they_should() -> None:
    slow, fast = say(("seven", Voice(speed_wpm=100)), ("seven", Voice(speed_wpm=250)))
    assert len(slow.waveform) > 1.5 * len(fast.waveform)
    at_8k = next(synthesize([("seven", Voice(speed_wpm=100))], sample_rate=8000))
    assert len(at_8k.waveform) == pytest.approx(len(slow.waveform) / 2, rel=0.03)


@needs_espeak
def test_a_higher_pitch_is_higher() -> None:
    def cycle_samples(waveform: np.ndarray) -> int:
        middle = waveform[len(waveform) // 3 :][:1600]
        likeness = np.correlate(middle, middle, "full")[len(middle) :]
        return int(likeness[40:300].argmax())

    low, high = say(("aaah", Voice(pitch=10)), ("aaah", Voice(pitch=90)))
    assert cycle_samples(low.waveform) > 1.3 * cycle_samples(high.waveform)


@needs_espeak
def test_a_cast_has_many_different_speakers_drawn_from_the_seed() -> None:
    everyone = cast(seed=1)
    assert len(everyone) > 500 and len({voice.speaker for voice in everyone}) == len(everyone)
    assert cast(5, seed=1) == everyone[:5] != cast(5, seed=2)
    assert {voice.name for voice in cast(seed=1, language="en-US")} == {"gmw/en-US", "gmw/en-US-nyc"}


def test_a_speaker_is_a_voice_and_a_variant_and_not_a_manner() -> None:
    voice = Voice("gmw/en-US", "f2", speed_wpm=150)
    assert voice.speaker == Voice("gmw/en-US", "f2", speed_wpm=200, pitch=10).speaker
    assert voice.speaker != Voice("gmw/en-US", "f3").speaker
    assert len(voice.speaker) == 8 and int(voice.speaker, 16) >= 0


@needs_espeak
def test_a_corpus_is_laid_out_like_speech_commands(made: Path) -> None:
    clips = corpus.scan(made)
    assert {clip.label for clip in clips} == {"hey hark", "tree"}
    speakers = {
        word: sorted(clip.speaker for clip in clips if clip.label == word) for word in ("hey hark", "tree")
    }
    assert speakers["hey hark"] == speakers["tree"] and len(set(speakers["tree"])) == 3
    for clip in clips:
        waveform = audio.read(clip.path)
        assert len(waveform) == 16_000 and np.abs(waveform).max() > 0.03
    assert [path.name for path in corpus.background_files(made)] == ["pink_noise.wav", "white_noise.wav"]


@needs_espeak
def test_the_manifest_lists_what_the_tree_holds(made: Path) -> None:
    listed = corpus.read_manifest(made / synthesis.MANIFEST)
    scanned = corpus.scan(made)
    assert {(c.path.name, c.label, c.speaker) for c in listed} == {
        (c.path.name, c.label, c.speaker) for c in scanned
    }


@needs_espeak
def test_words_stand_at_different_places_in_their_clips(made: Path) -> None:
    onsets = {int(np.flatnonzero(audio.read(clip.path))[0]) for clip in corpus.scan(made)}
    assert len(onsets) > 8


@needs_espeak
def test_the_same_seed_writes_the_same_bytes_whatever_the_other_words(made: Path, tmp_path: Path) -> None:
    synthesize_corpus(["tree"], tmp_path / "again", clips_per_word=6, seed=3)
    again = files_of(tmp_path / "again" / "tree")
    assert again == files_of(made / "tree")
    synthesize_corpus(["tree"], tmp_path / "other", clips_per_word=6, seed=4)
    assert not set(again.values()) & set(files_of(tmp_path / "other" / "tree").values())


@needs_espeak
def test_a_folder_in_use_is_refused_and_left_alone(made: Path) -> None:
    before = files_of(made)
    with pytest.raises(UsageError, match="exists already, expected a new folder"):
        synthesize_corpus(["dog"], made, clips_per_word=1)
    assert files_of(made) == before


@needs_espeak
def test_a_corpus_given_up_halfway_leaves_nothing(tmp_path: Path) -> None:
    takes = synthesis.corpus_takes(["dog", "cat"], tmp_path / "half", clips_per_word=2)
    next(takes)
    takes.close()
    assert not list(tmp_path.iterdir())


@needs_espeak
def test_a_phrase_that_does_not_fit_asks_for_longer_clips(tmp_path: Path) -> None:
    phrase = "the quick brown fox jumps over it"
    with pytest.raises(SynthesisError, match=r"lasts .* expected at most 1 s; ask for longer clips"):
        synthesize_corpus([phrase], tmp_path / "short", clips_per_word=1)
    clip = synthesize_corpus([phrase], tmp_path / "long", clips_per_word=1, clip_s=3.0)[0]
    assert len(audio.read(clip.path)) == 48_000


@needs_espeak
def test_a_stream_says_where_its_words_are() -> None:
    stream = synthesize_stream(["house", "tree", "house"], cast(2), seed=5, gap_s=(0.2, 0.6))
    assert [word.text for word in stream.words] == ["house", "tree", "house"]
    assert stream.words[0].speaker == stream.words[2].speaker != stream.words[1].speaker
    silent = np.ones(len(stream.waveform), dtype=bool)
    for word in stream.words:
        inside = slice(round(word.start_s * 16_000), round(word.end_s * 16_000))
        spoken = np.abs(stream.waveform[inside])
        assert min(spoken[0], spoken[-1]) > 0 and spoken.max() > 0.05
        silent[inside] = False
    assert not stream.waveform[silent].any()
    gaps = np.diff([0.0, *(t for word in stream.words for t in (word.start_s, word.end_s))])[::2]
    assert gaps.min() >= 0.199 and gaps.max() <= 0.601


@needs_espeak
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty"),
        (" \t", "the text is empty"),
        ("a\x07b", "control characters"),
        ("two\nlines", "control characters"),
        ("\ud800", "control characters"),
        ("a" * 301, "has 301 characters, expected at most 300"),
    ],
)
def test_text_that_cannot_be_spoken_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        say((text, Voice()))


@needs_espeak
def test_text_without_sound_is_an_error_and_markup_is_only_text() -> None:
    with pytest.raises(SynthesisError, match="makes no sound"):
        say(("...", Voice()))
    assert say(("[[tri:]] <break/>", Voice()))[0].waveform.any()


@needs_espeak
@pytest.mark.parametrize(
    ("voice", "message"),
    [
        (Voice("gmw/en-UK"), "no voice 'gmw/en-UK' in espeak-ng; did you mean 'gmw/en"),
        (Voice(variant="f22"), "no variant 'f22' in espeak-ng; did you mean 'f2'"),
    ],
)
def test_an_unknown_voice_gets_a_suggestion(voice: Voice, message: str) -> None:
    with pytest.raises(SynthesisError, match=message):
        say(("hello", voice))


@needs_espeak
def test_an_unknown_language_and_too_many_speakers_are_refused() -> None:
    with pytest.raises(UsageError, match="no voice for language 'tlh'"):
        cast(1, language="tlh")
    with pytest.raises(UsageError, match=r"9999 speakers asked for, 'en' has \d+; ask for fewer"):
        cast(9999)


def test_a_manner_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="speed_wpm is 1000, expected 80 to 450"):
        Voice(speed_wpm=1000)


@pytest.mark.parametrize("words", [["../up"], ["_hidden"], [".dot"], ["a/b"], ["Cat", "cat"], [], [" cat"]])
def test_words_that_cannot_name_folders_are_refused(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        synthesize_corpus(words, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_a_sick_helper_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Helper, "ask", mock.Mock(side_effect=HelperLost("crashed (SIGABRT)")))
    with pytest.raises(
        SynthesisError, match=r"^the espeak-ng helper, asked for its voices, crashed \(SIGABRT\); "
    ):
        list(synthesize([("hello", Voice())]))


def test_without_the_extra_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the helper answers where there is no espeak-ng."""
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(SynthesisError, match=r'no espeak-ng here \(.*\); pip install "hark-kws\['):
        _espeak._Speaker().answer({})


@needs_espeak
def test_a_crash_of_the_library_costs_one_utterance_and_not_the_helper() -> None:
    request = {"text": "hello", "voice": "gmw/en-US", "variant": "", "pitch": 50, "intonation": 50}
    with _espeak.Espeak() as espeak:
        with pytest.raises(SynthesisError, match=r"espeak-ng crashed on 'hello' \(status"):
            espeak.say(request)  # a speed is missing, which no caller of hark can bring about
        assert espeak.say({**request, "speed_wpm": 175})


@needs_espeak
def test_the_library_is_never_in_our_own_process() -> None:
    say(("hello", Voice()))
    assert "espeakng_loader" not in sys.modules
    maps = Path("/proc/self/maps")
    assert not maps.exists() or "espeak" not in maps.read_text()


@needs_espeak
def test_the_command_writes_a_corpus_and_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["hey hark", "tree", "--to", str(tmp_path / "made"), "--clips", "4"])
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'made'}: 8 clips of 2 words by 2 speakers, manifest.jsonl beside them\n"
    assert len(corpus.scan(tmp_path / "made")) == 8
