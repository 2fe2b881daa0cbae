"""Splits: the official lists, disjoint speakers, independence of order, and leaks by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hark.cli.data import data
from hark.errors import CorpusError, UsageError
from hark.sound import audio, corpus, splits
from hark.sound.corpus import Clip

SPEAKERS = st.lists(st.text("0123456789abcdef", min_size=1, max_size=8), min_size=1, max_size=40)


def clips_of(speakers: list[str]) -> list[Clip]:
    """One clip per entry; the same name twice is the same speaker's next take."""
    return [Clip(Path(f"w/{name}_nohash_{take}.wav"), "w", name) for take, name in enumerate(speakers)]


def test_the_official_lists_are_reproduced(shared_data: Path) -> None:
    """Forwards: every name on either list is put there."""
    for part in ("validation", "testing"):
        names = (shared_data / "speech_commands" / f"{part}_list.txt").read_text().split()
        assert len(names) > 6_000
        assert {splits.official_part(Path(name).name) for name in names} == {part}


def test_what_is_on_no_official_list_trains(shared_data: Path) -> None:
    """Backwards, for the words whose v0.01 training and validation parts are complete here."""
    root = shared_data / "speech_commands"
    listed = set((root / "validation_list.txt").read_text().split())
    clips = [clip for clip in corpus.scan(root) if clip.label in {"bed", "cat", "happy"}]
    parts = splits.official_parts(clips)
    assert {f"{clip.label}/{clip.path.stem}.wav" for clip in parts.validation} <= listed
    assert not {f"{clip.label}/{clip.path.stem}.wav" for clip in parts.training} & listed
    assert parts.testing == []
    assert len(parts.training) + len(parts.validation) == 4_654


def test_the_suffix_does_not_change_the_official_part() -> None:
    names = [f"{n:08x}_nohash_0" for n in range(200)]
    assert [splits.official_part(f"{n}.wav") for n in names] == [splits.official_part(f"{n}.flac") for n in names]


def test_the_official_shares_can_be_chosen() -> None:
    assert splits.official_part("a_nohash_0.wav", validation_percent=101) == "validation"
    assert splits.official_part("a_nohash_0.wav", validation_percent=0, testing_percent=101) == "testing"
    assert splits.official_part("a_nohash_0.wav", validation_percent=0, testing_percent=0) == "training"


@given(speakers=SPEAKERS, fold=st.integers(0, 4))
def test_every_clip_is_in_one_part_and_every_speaker_too(speakers: list[str], fold: int) -> None:
    clips = clips_of(speakers)
    parts = splits.fold_parts(clips, fold=fold)
    assert sorted(chain(*parts), key=str) == sorted(clips, key=str)
    training, validation, testing = ({clip.speaker for clip in part} for part in parts)
    assert not (training & validation or training & testing or validation & testing)


@given(speakers=SPEAKERS, folds=st.integers(2, 7))
def test_every_clip_is_tested_in_one_fold(speakers: list[str], folds: int) -> None:
    clips = clips_of(speakers)
    tested = [clip for k in range(folds) for clip in splits.fold_parts(clips, fold=k, folds=folds).testing]
    assert sorted(tested, key=str) == sorted(clips, key=str)


@given(speakers=SPEAKERS, seed=st.integers(0, 9))
def test_the_order_of_the_clips_plays_no_role(speakers: list[str], seed: int) -> None:
    clips = clips_of(speakers)
    for cut in (
        lambda some: splits.fold_parts(some, fold=0),
        lambda some: splits.random_parts(some, seed=seed),
        splits.official_parts,
    ):
        assert [set(part) for part in cut(clips)] == [set(part) for part in cut(clips[::-1])]


@given(count=st.integers(1, 60), share=st.floats(0, 1))
def test_a_random_split_has_the_size_asked_for(count: int, share: float) -> None:
    parts = splits.random_parts(clips_of(["a"] * count), seed=0, test_share=share)
    assert len(parts.testing) == round(count * share)
    assert len(parts.training) == count - len(parts.testing)


def test_a_random_split_is_another_for_another_seed_and_leaks_speakers() -> None:
    clips = clips_of([f"{n % 20:x}" for n in range(100)])
    first, second = (splits.random_parts(clips, seed=seed) for seed in (0, 1))
    assert first != second
    assert splits.find_leaks(first._asdict())


def test_the_folds_of_the_reference_task_are_the_documented_ones(shared_data: Path) -> None:
    """`int(sha1(speaker).hexdigest(), 16) % 5`, and about a tenth of the other speakers validates."""
    assert [splits.fold_of(name) for name in ("012c8314", "0132a06d", "0135f3f2")] == [4, 0, 3]
    clips = corpus.scan(shared_data / "speech_commands")
    parts = splits.fold_parts(clips, fold=0)
    assert [len(part) for part in parts] == [4_965, 541, 1_518]


def test_a_whole_split_trains_on_all_and_watches_a_tenth_of_it() -> None:
    clips = clips_of([f"{n % 100:x}" for n in range(300)])
    training, watched, testing = splits.parts_by("whole", clips, fold=0)
    assert training == clips
    assert watched == testing
    assert 0.05 < len(watched) / len(clips) < 0.15
    assert {clip.speaker for clip in watched}.isdisjoint(clip.speaker for clip in clips if clip not in watched)
    with pytest.raises(UsageError, match="it has but one"):
        splits.parts_by("whole", clips, fold=1)


def test_sentences_go_where_their_half_goes() -> None:
    """Pieces of one recording stay together: a speaker is the recording."""
    halves = {name: splits.speech_part(name) for name in (f"{n:x}" for n in range(100))}
    pieces = [Clip(Path(name), "", name, start_s=at, split=half) for name, half in halves.items() for at in (0, 1)]
    parts = splits.with_sentences(splits.Parts([], [], []), pieces)
    assert {clip.split for clip in (*parts.training, *parts.validation)} == {"training"}
    assert sorted(map(repr, parts.testing)) == sorted(repr(clip) for clip in pieces if clip.split == "judging")
    assert 0 < len(parts.validation) < len(parts.training)
    assert splits.find_leaks(parts._asdict()) == []


@pytest.mark.parametrize(("speakers", "named"), [(["a", "a", "b"], True), (["a", "b", "c"], False)])
def test_a_corpus_names_its_speakers_if_one_of_them_comes_again(speakers: list[str], named: bool) -> None:
    assert splits.names_speakers(clips_of(speakers)) is named


@pytest.mark.parametrize(("fold", "folds"), [(5, 5), (-1, 5), (0, 1)])
def test_there_is_no_such_fold(fold: int, folds: int) -> None:
    with pytest.raises(UsageError, match=rf"fold {fold} of {folds}, expected one of 0 to"):
        splits.fold_parts([], fold=fold, folds=folds)


@given(total=st.integers(2, 10**7))
def test_noise_is_cut_at_four_fifths(total: int) -> None:
    (start, cut), (next_start, stop) = splits.background_parts("noise.wav", total)
    assert (start, next_start, stop) == (0, cut, total)
    assert abs(cut - 0.8 * total) <= 1


def test_noise_of_one_sample_cannot_be_cut() -> None:
    with pytest.raises(CorpusError, match=r"noise\.wav: 1 samples of noise, too few to train and to judge"):
        splits.background_parts("noise.wav", 1)


def test_speech_is_halved_by_name_whatever_its_suffix() -> None:
    parts = [splits.speech_part(f"{n}.flac") for n in range(1_000)]
    assert 450 < parts.count("training") < 550
    assert set(parts) == {"training", "judging"}
    assert parts == [splits.speech_part(f"{n}.wav") for n in range(1_000)]


@pytest.fixture
def takes(tmp_path: Path) -> list[Clip]:
    """Three recordings of different noise by three speakers."""
    sounds = np.random.default_rng(0).integers(-9_000, 9_000, (3, 1_600)).astype(np.int16)
    clips = [Clip(tmp_path / f"{name}_nohash_0.wav", "w", name) for name in "abc"]
    for clip, sound in zip(clips, sounds, strict=True):
        audio.write(clip.path, audio.from_pcm16(sound))
    return clips


def test_a_clean_split_has_no_leaks(takes: list[Clip]) -> None:
    assert splits.find_leaks({"training": takes[:2], "testing": takes[2:]}) == []


def test_a_shared_speaker_is_named(takes: list[Clip]) -> None:
    other = replace(takes[2], speaker="a")
    assert splits.find_leaks({"training": takes[:2], "testing": [other]}) == [
        "speaker a is in training (1 ×) and testing (1 ×)"
    ]


def test_a_copy_in_another_format_is_named(takes: list[Clip]) -> None:
    copy = replace(takes[0], path=takes[0].path.with_name("copy.flac"), speaker="d")
    soundfile.write(copy.path, audio.read(takes[0].path), 16_000, subtype="PCM_24")
    assert splits.find_leaks({"training": takes, "testing": [copy]}) == [
        f"same sound: {takes[0].path} (training) and {copy.path} (testing)"
    ]


def test_parts_of_one_recording_are_compared_as_parts(takes: list[Clip]) -> None:
    first, second = (replace(takes[0], start_s=at, duration_s=0.05, speaker=str(at)) for at in (0.0, 0.05))
    assert splits.find_leaks({"training": [first], "testing": [second]}) == []


def test_split_shows_sizes_and_fails_on_a_leak(takes: list[Clip], tmp_path: Path) -> None:
    corpus.write_manifest(tmp_path / "m.jsonl", takes)
    clean = CliRunner().invoke(data, ["split", str(tmp_path / "m.jsonl"), "--folds", "2"])
    assert clean.stdout.splitlines() == [
        "fold  training  validation  testing",
        *(
            f"{k:>4}  {len(parts.training):>8}  {len(parts.validation):>10}  {len(parts.testing):>7}"
            for k, parts in enumerate(splits.fold_parts(takes, fold=k, folds=2) for k in range(2))
        ),
        "no speaker and no sound is in two parts",
        "no speaker is named twice: each file counts as one of its own",
    ]
    in_each_fold = {splits.fold_of(name, 2): name for name in "defgh"}
    copies = [
        replace(takes[0], speaker=name, path=Path(shutil.copy(takes[0].path, tmp_path / f"{name}.wav")))
        for name in in_each_fold.values()
    ]
    corpus.write_manifest(tmp_path / "m.jsonl", copies)
    leaky = CliRunner().invoke(data, ["split", str(tmp_path / "m.jsonl"), "--folds", "2"])
    assert "same sound: " in leaky.stdout
    assert isinstance(leaky.exception, CorpusError)
