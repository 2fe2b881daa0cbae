"""Clips on disk: trees, manifests, and what names them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hark.cli.data import data
from hark.errors import CorpusError, HarkError, UsageError
from hark.sound import audio, corpus
from hark.sound.corpus import Clip

NAMES = ["happy/b_nohash_0.wav", "happy/a_nohash_1.flac", "bed/anna_03.WAV", "bed/lone.ogg", "bed/z.mp3"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A corpus of empty files, with noise, lists and hidden names beside the words."""
    root = tmp_path / "corpus"
    for name in [*NAMES, "_background_noise_/b.wav", "_background_noise_/a.wav", ".cache/x.wav"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "testing_list.txt").write_text("bed/z.mp3\n")
    (root / "bed" / "README.md").write_text("no sound")
    return root


def test_a_tree_is_listed_by_word_and_name(tree: Path) -> None:
    assert [str(clip.path.relative_to(tree)) for clip in corpus.scan(tree)] == [
        "bed/anna_03.WAV",
        "bed/lone.ogg",
        "bed/z.mp3",
        "happy/a_nohash_1.flac",
        "happy/b_nohash_0.wav",
    ]
    assert [clip.label for clip in corpus.scan(tree)] == ["bed", "bed", "bed", "happy", "happy"]
    assert [clip.speaker for clip in corpus.scan(tree)] == ["anna", "lone", "z", "a", "b"]


def test_the_order_of_the_folder_plays_no_role(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = corpus.scan(tree)
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(iterdir(self), reverse=True)))
    assert corpus.scan(tree) == expected


def test_links_to_nothing_are_listed_so_that_inspection_can_name_them(tree: Path) -> None:
    (tree / "bed" / "gone.wav").symlink_to("nowhere.wav")
    assert tree / "bed" / "gone.wav" in [clip.path for clip in corpus.scan(tree)]


def test_noise_is_found_beside_the_words(tree: Path) -> None:
    assert [path.name for path in corpus.background_files(tree)] == ["a.wav", "b.wav"]
    assert corpus.background_files(tree / "bed") == []


@pytest.mark.parametrize(
    ("file_name", "speaker"),
    [
        ("0132a06d_nohash_2.wav", "0132a06d"),
        ("anna_b_nohash_0.flac", "anna_b"),
        ("00000001_NO_01.flac", "00000001"),
        ("a9872fcf-7225.flac", "a9872fcf-7225"),
        ("_03.wav", "_03"),
    ],
)
def test_the_speaker_is_in_the_file_name(file_name: str, speaker: str) -> None:
    assert corpus.speaker_of(file_name) == speaker


def test_a_place_without_clips_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder, expected one with a folder of recordings per word"):
        corpus.scan(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="no recordings, expected <word>/<name>"):
        corpus.scan(tmp_path)


def test_the_digest_names_the_data_and_not_its_place(tree: Path, tmp_path: Path) -> None:
    clips = corpus.scan(tree)
    moved = corpus.scan(shutil.copytree(tree, tmp_path / "elsewhere" / "copy"))
    assert corpus.digest(clips) == corpus.digest(clips[::-1]) == corpus.digest(moved)


def test_the_digest_sees_every_change(tree: Path) -> None:
    clips = corpus.scan(tree)
    others = [
        clips[1:],
        [replace(clips[0], start_s=0.5), *clips[1:]],
        [replace(clips[0], duration_s=1.0), *clips[1:]],
    ]
    digests = {corpus.digest(each) for each in [clips, *others]}
    clips[0].path.write_bytes(b"longer")
    assert len(digests | {corpus.digest(clips)}) == 5


SECONDS = st.floats(0, 1e6, allow_subnormal=False)
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@given(
    label=WORDS,
    speaker=WORDS,
    start_s=SECONDS,
    duration_s=st.none() | SECONDS.filter(bool),
    split=st.none() | WORDS,
)
def test_a_manifest_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    label: str,
    speaker: str,
    start_s: float,
    duration_s: float | None,
    split: str | None,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    clips = [Clip(folder / "sub" / "ä.wav", label, speaker, start_s, duration_s, split)]
    corpus.write_manifest(folder / "clips.jsonl", clips)
    assert corpus.read_manifest(folder / "clips.jsonl") == clips


def test_a_manifest_needs_path_and_label_alone(tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text('{"path": "a/anna_1.wav", "label": "hey"}\n\n')
    assert corpus.load(tmp_path / "clips.jsonl") == [Clip(tmp_path / "a" / "anna_1.wav", "hey", "anna")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": "a.wav"}', r":2: no 'label', expected an object with path and label"),
        ('{"path": "a.wav", "lable": "x"}', r":2: unknown key 'lable', expected path, .*; did you mean 'label'\?"),
        (
            '{"path": "a.wav", "label": "x", "qqq": 1}',
            r":2: unknown key 'qqq', expected path, label, speaker",
        ),
        ('{"path": "a.wav", "label": 7}', r":2: label is 7, expected a word"),
        ('{"path": "a.wav", "label": "x", "start_s": NaN}', r":2: start_s is nan, expected seconds ≥ 0"),
        ('{"path": "a.wav", "label": "x", "start_s": 1e999}', r":2: start_s is inf, expected seconds ≥ 0"),
        ('{"path": "a.wav", "label": "x", "start_s": true}', r":2: start_s is True, expected seconds ≥ 0"),
        (
            '{"path": "a.wav", "label": "x", "start_s": ' + "9" * 400 + "}",
            r":2: start_s is 9+\.\.\., expected",
        ),
        ('{"path": "a.wav", "label": "x", "duration_s": 0}', r":2: duration_s is 0, expected seconds > 0"),
        ('{"path": "a.wav", "label": "x", "speaker": null}', r":2: speaker is None, expected a name"),
        ('["a.wav"]', r":2: \['a.wav'\], expected an object"),
        ("{", r":2: not JSON, expected one object a line"),
        ("[" * 60_000, r":2: not JSON, expected one object a line"),
        ('{"path": "' + "a" * 70_000, r":2: a line of 65536 bytes or more"),
        ('{"path": "a\\u0000.wav", "label": "x"}', r":2: path is 'a\\x00.wav', expected a relative path"),
        ('{"path": "a.wav", "label": "\\u001b[2J"}', r":2: label is '\\x1b\[2J', expected a word"),
        ('{"path": "./a.wav", "label": "y"}', r":2: the clip of line 1 again, expected each once"),
        ('{"path": "../a.wav", "label": "x"}', r":2: path '../a.wav' leaves the manifest's folder"),
        ('{"path": "/etc/passwd", "label": "x"}', r":2: path '/etc/passwd' leaves the manifest's folder"),
        ('{"path": "C:\\\\a.wav", "label": "x"}', r":2: path 'C:.*a.wav' leaves the manifest's folder"),
        ('{"path": "out/a.wav", "label": "x"}', r":2: path 'out/a.wav' leaves the manifest's folder"),
    ],
)
def test_a_bad_manifest_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path)
    (folder / "clips.jsonl").write_text('{"path": "a.wav", "label": "x"}\n' + line)
    with pytest.raises(CorpusError, match=message):
        corpus.read_manifest(folder / "clips.jsonl")


@given(st.binary(max_size=200) | st.dictionaries(st.text(), st.none() | st.text() | st.floats()).map(json.dumps))
def test_any_manifest_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes | str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CorpusError, match="expected"):
        corpus.read_manifest(path)


def test_parts_of_one_recording_are_different_clips(tmp_path: Path) -> None:
    lines = [f'{{"path": "a.wav", "label": "x", "start_s": {start_s}, "duration_s": 1}}\n' for start_s in (0, 1)]
    (tmp_path / "clips.jsonl").write_text("".join(lines))
    assert [clip.start_s for clip in corpus.read_manifest(tmp_path / "clips.jsonl")] == [0, 1]


def test_a_manifest_of_too_many_lines_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "MOST_LINES", 3)
    (tmp_path / "clips.jsonl").write_text("not JSON\n" * 4)
    with pytest.raises(CorpusError, match=r"clips\.jsonl: 4 lines, expected at most 3; cut it in parts"):
        corpus.read_manifest(tmp_path / "clips.jsonl")


def test_a_manifest_that_is_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clips.jsonl")
    with pytest.raises(CorpusError, match="not a regular file, expected a JSON-lines manifest"):
        corpus.load(tmp_path / "clips.jsonl")


def test_what_no_manifest_may_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a\.wav: label is '\\x1b\[2J', expected a word"):
        corpus.write_manifest(tmp_path / "m.jsonl", [Clip(tmp_path / "a.wav", "\x1b[2J", "s")])
    assert list(tmp_path.iterdir()) == []


def test_a_clip_outside_the_manifests_folder_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    with pytest.raises(CorpusError, match=r"a\.wav: outside .*; write the manifest to a folder that holds"):
        corpus.write_manifest(tmp_path / "inside" / "m.jsonl", [Clip(tmp_path / "a.wav", "x", "y")])
    assert list((tmp_path / "inside").iterdir()) == []


def test_the_shared_corpus_has_its_documented_size(shared_data: Path) -> None:
    clips = corpus.scan(shared_data / "speech_commands")
    assert len(clips) == 7_024
    assert sum(clip.label == "happy" for clip in clips) == 1_558
    assert len({clip.speaker for clip in clips}) == 1_683
    assert len(corpus.background_files(shared_data / "speech_commands")) == 6


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """Two words by two speakers, a second of noise each."""
    root = tmp_path / "spoken"
    for seed, name in enumerate(["bed/a_nohash_0.wav", "bed/b_nohash_0.wav", "cat/a_nohash_0.wav"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        audio.write(root / name, np.random.default_rng(seed).uniform(-0.1, 0.1, 48_000), sample_rate=48_000)
    return root


def test_index_counts_clips_speakers_and_hours(spoken: Path) -> None:
    result = CliRunner().invoke(data, ["index", str(spoken), "--manifest", str(spoken / "m.jsonl")])
    assert result.stdout.splitlines() == [
        "word  clips  speakers  hours",
        "bed       2         2    0.0",
        "cat       1         1    0.0",
        "all       3         2    0.0",
    ]
    assert corpus.load(spoken / "m.jsonl") == corpus.scan(spoken)


def test_convert_copies_a_tree_to_16_khz_and_leaves_the_source(spoken: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in spoken.rglob("*.wav")}
    result = CliRunner().invoke(data, ["convert", str(spoken), str(tmp_path / "out")])
    assert result.stdout == f"3 recordings in {tmp_path / 'out'}\n"
    assert {audio.info(clip.path).sample_rate for clip in corpus.scan(tmp_path / "out")} == {16_000}
    assert {path: path.read_bytes() for path in spoken.rglob("*.wav")} == before


def test_convert_names_what_it_leaves_out(spoken: Path, tmp_path: Path) -> None:
    (spoken / "bed" / "bad.wav").write_bytes(b"<html>")
    (spoken / "bed" / "a_nohash_0.flac").write_bytes(b"fLaC")
    result = CliRunner().invoke(data, ["convert", str(spoken), str(tmp_path / "out")])
    assert result.stdout.startswith("3 recordings in ")
    assert "bad.wav: not decodable (Format not recognised)" in result.stderr
    assert "a_nohash_0.flac: a_nohash_0.wav beside it would get the same name; rename one" in result.stderr
    assert isinstance(result.exception, HarkError)


def test_convert_never_writes_into_its_source(spoken: Path) -> None:
    result = CliRunner().invoke(data, ["convert", str(spoken), str(spoken / "out")])
    assert isinstance(result.exception, UsageError)
    assert not (spoken / "out").exists()
