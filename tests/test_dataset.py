"""A task: who trains and who judges, each clip the part of a recording that it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hark.errors import CorpusError, ModelError, TooManyBadClips, UsageError
from hark.learning.dataset import SENTENCES, Source, Task, clip_scores, load_task
from hark.network.crnn import CrnnConfig
from hark.network.layers import Affine
from hark.network.spotter import Spotter, SpotterConfig
from hark.sound import audio
from hark.sound.corpus import BACKGROUND_FOLDER, Clip, scan, write_manifest
from hark.sound.splits import Parts, SplitRule, find_leaks, official_part

SPEAKERS = tuple(f"{number:08x}" for number in range(40))


def _parts(task: Task) -> dict[str, set[str]]:
    return {
        name: {f"{clip.label}/{clip.path.name}" for clip in getattr(task, name).clips}
        for name in ("training", "validation", "testing")
    }


def test_the_parts_share_nothing_and_leave_nothing_out(tiny_source: Source, tiny_task: Task) -> None:
    parts = _parts(tiny_task)
    assert {name: len(part) for name, part in parts.items()} == {
        "training": 40,
        "validation": 10,
        "testing": 50,
    }
    assert len(set.union(*parts.values())) == 100
    assert find_leaks({name: getattr(tiny_task, name).clips for name in parts}) == []
    assert _parts(load_task(tiny_source, fold=1))["testing"].isdisjoint(parts["testing"])


def test_targets_and_sound_are_those_of_the_clips(tiny_task: Task) -> None:
    data = tiny_task.testing
    for row in (0, len(data) // 2, len(data) - 1):
        clip = data.clips[row]
        assert data.targets[row] == (clip.label == "beep")
        np.testing.assert_array_equal(data.waveforms([row])[0].numpy(), audio.read(clip.path))


def test_a_part_has_the_clips_targets_and_sound_of_its_rows(tiny_task: Task) -> None:
    data = tiny_task.testing
    for rows in ([7, 3], slice(2, 9, 3), slice(45, 99)):
        part = data.part(rows)
        assert part.clips == tuple(np.array(data.clips, dtype=object)[rows])
        np.testing.assert_array_equal(part.pcm, data.pcm[rows])
        np.testing.assert_array_equal(part.targets, data.targets[rows])


def test_clips_at_another_rate_are_what_is_read_of_them_at_it(tiny_task: Task) -> None:
    """But for the 16 bits between."""
    data = tiny_task.testing
    assert data.at_rate(data.sample_rate) is data
    slow = data.at_rate(8_000)
    assert (slow.sample_rate, slow.pcm.shape, slow.pcm.dtype) == (8_000, (50, 8_000), np.int16)
    assert slow.clips == data.clips
    read = np.stack([audio.read(clip.path, sample_rate=8_000) for clip in data.clips])
    np.testing.assert_allclose(slow.waveforms(slice(None)).numpy(), read, atol=1e-4)


def test_decoded_sound_is_kept_and_used_again(
    tiny_source: Source, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hark.sound.inspection.examine", None)  # whoever decodes a recording now fails
    again = load_task(tiny_source, fold=0)
    np.testing.assert_array_equal(again.training.pcm, tiny_task.training.pcm)
    for kind in ("noises", "other_sounds", "judging_noises"):
        assert all(map(np.array_equal, getattr(again, kind), getattr(tiny_task, kind)))


def test_what_trains_never_judges(tiny_source: Source, tiny_task: Task) -> None:
    assert len(tiny_task.noises) == len(tiny_task.judging_noises) == 2
    for path, train, judge in zip(
        sorted((tiny_source.root / BACKGROUND_FOLDER).iterdir()),
        tiny_task.noises,
        tiny_task.judging_noises,
        strict=True,
    ):
        np.testing.assert_array_equal(np.concatenate((train, judge)), audio.to_pcm16(audio.read(path)))
        assert len(train) == 4 * len(judge)
    assert len(tiny_task.judging_speech) == 2
    judged = [audio.to_pcm16(audio.read(path)) for path in tiny_task.judging_speech]
    assert not any(np.array_equal(heard, sound) for heard in tiny_task.other_sounds for sound in judged)


def _write_manifest(folder: Path, labels: tuple[str, ...] = ("yes", "no")) -> Path:
    """One long recording per speaker, each word a second of it at a level that tells which."""
    lines = []
    for speaker in SPEAKERS:
        levels = np.repeat([0.1 * (1 + place) for place in range(len(labels))], audio.SAMPLE_RATE)
        audio.write(folder / f"{speaker}.wav", levels * np.tile([1.0, -1.0], len(levels) // 2))
        lines += [
            {
                "path": f"{speaker}.wav",
                "label": label,
                "speaker": speaker,
                "start_s": place,
                "duration_s": 1.0,
            }
            for place, label in enumerate(labels)
        ]
    manifest = folder / "clips.jsonl"
    manifest.write_text("\n".join(json.dumps(line) for line in lines))
    return manifest


def _source(root: Path, keyword: str = "yes") -> Source:
    return Source(root=root, keyword=keyword, cache=root.parent / "cache", folds=2)


def test_clips_of_one_recording_are_told_apart_by_their_times(tmp_path: Path) -> None:
    data = load_task(_source(_write_manifest(tmp_path)), fold=0).testing
    peaks = data.waveforms(slice(None)).amax(dim=1).numpy()
    np.testing.assert_allclose(peaks, np.where(data.targets, 0.1, 0.2), atol=1e-4)


def test_an_unknown_keyword_is_answered_with_the_words(tiny_source: Source) -> None:
    with pytest.raises(CorpusError, match=r"no word 'bep'; expected one of: beep, hiss, hum$"):
        load_task(replace(tiny_source, keyword="bep"), fold=0)


def _clips(task: Task) -> dict[str, tuple[Clip, ...]]:
    return {name: getattr(task, name).clips for name in Parts._fields}


def test_the_official_split_goes_by_the_hash_rule(tiny_source: Source) -> None:
    for name, part in _clips(load_task(replace(tiny_source, split="official"), fold=0)).items():
        assert {official_part(clip.path.name) for clip in part} == {name}


def test_the_reference_split_is_random_by_clip_and_leaks_speakers(tiny_source: Source) -> None:
    parts = _clips(load_task(replace(tiny_source, split="random"), fold=0))
    assert [len(part) for part in parts.values()] == [72, 8, 20]
    assert find_leaks(parts)


@pytest.mark.parametrize("split", ["official", "manifest"])
def test_a_rule_of_one_split_has_no_other_fold(split: SplitRule, tiny_source: Source) -> None:
    with pytest.raises(UsageError, match="it has but one"):
        load_task(replace(tiny_source, split=split), fold=1)


def test_a_manifest_may_say_which_part_a_clip_is_in(tiny_source: Source) -> None:
    told = [replace(clip, split=Parts._fields[row % 3]) for row, clip in enumerate(scan(tiny_source.root))]
    manifest = tiny_source.root / "split.jsonl"
    write_manifest(manifest, told)
    parts = _clips(load_task(replace(tiny_source, root=manifest, split="manifest"), fold=0))
    assert {name: {clip.split for clip in part} for name, part in parts.items()} == {
        name: {name} for name in Parts._fields
    }


def test_the_whole_corpus_trains_and_its_figures_are_not_told(tiny_source: Source, tiny_task: Task) -> None:
    task = load_task(replace(tiny_source, split="whole"), fold=0)
    assert len(task.training) == 100
    assert not task.is_judged
    assert tiny_task.is_judged
    assert task.digest == tiny_task.digest, "the data are the same, however they are cut"


def test_all_clips_have_the_length_that_is_asked_for(tiny_source: Source, tiny_task: Task) -> None:
    """Longer ones lose their end, shorter ones get silence there."""
    longer, shorter = (load_task(replace(tiny_source, clip_s=length_s), fold=0) for length_s in (1.5, 0.5))
    samples = audio.SAMPLE_RATE
    assert [task.clip_s for task in (tiny_task, longer, shorter)] == [1.0, 1.5, 0.5]
    np.testing.assert_array_equal(longer.training.pcm[:, :samples], tiny_task.training.pcm)
    assert not longer.training.pcm[:, samples:].any()
    np.testing.assert_array_equal(shorter.training.pcm, tiny_task.training.pcm[:, : samples // 2])
    assert len({task.digest for task in (tiny_task, longer, shorter)}) == 3, "each is a task of its own"


def test_sentences_become_clips_on_the_side_that_they_belong_to(tiny_source: Source, tiny_task: Task) -> None:
    task = load_task(replace(tiny_source, cut_speech="both", clip_s=0.4), fold=0)
    cut = {
        name: {(clip.path, clip.start_s) for clip in part if clip.label == SENTENCES}
        for name, part in _clips(task).items()
    }
    assert {path for path, _ in cut["testing"]} == set(task.judging_speech)
    assert [len(pieces) for pieces in cut.values()] == [4, 0, 4], "two of 0.4 s in each second"
    row = next(row for row, clip in enumerate(task.testing.clips) if clip.label == SENTENCES and clip.start_s)
    clip = task.testing.clips[row]
    expected = audio.to_pcm16(audio.read(clip.path, start_s=clip.start_s, duration_s=clip.duration_s))
    np.testing.assert_array_equal(task.testing.pcm[row], expected)
    assert not task.testing.targets[row]
    only = load_task(replace(tiny_source, cut_speech="training", clip_s=0.4), fold=0)
    assert len(only.training) == len(task.training)
    assert not any(clip.label == SENTENCES for clip in (*only.validation.clips, *only.testing.clips))
    none = load_task(replace(tiny_source, clip_s=0.4), fold=0)
    assert len({task.digest, only.digest, none.digest}) == 3


def test_background_may_come_from_elsewhere(tiny_source: Source, tiny_task: Task, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_source.root, bare, ignore=shutil.ignore_patterns(BACKGROUND_FOLDER))
    task = load_task(replace(tiny_source, root=bare, noise=tiny_source.root / BACKGROUND_FOLDER), fold=0)
    assert all(map(np.array_equal, task.noises, tiny_task.noises))
    assert load_task(replace(tiny_source, root=bare), fold=0).noises == ()
    with pytest.raises(CorpusError, match="expected a folder of background noises"):
        load_task(replace(tiny_source, noise=tmp_path / "nosie"), fold=0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"clip_s": 0.01}, "clips of 0.01 s, expected 0.1 to 60 s"),
        ({"speech": None, "cut_speech": "both"}, "and there is none"),
    ],
)
def test_a_task_that_cannot_be_is_refused_at_once(tiny_source: Source, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        replace(tiny_source, **wrong)


def test_a_clip_that_names_no_part_is_refused(tiny_source: Source) -> None:
    with pytest.raises(CorpusError, match="split is None, expected one of training, validation, testing"):
        load_task(replace(tiny_source, split="manifest"), fold=0)


@pytest.mark.parametrize("fold", [-1, 2])
def test_a_fold_that_is_not_there_is_refused(tiny_source: Source, fold: int) -> None:
    with pytest.raises(UsageError, match="expected 0 to 1"):
        load_task(tiny_source, fold=fold)


def test_a_part_without_other_words_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"the training part of fold 0 has .* expected some of both"):
        load_task(_source(_write_manifest(tmp_path, labels=("yes",))), fold=0)


def test_a_speech_folder_without_speech_is_refused(tiny_source: Source, tmp_path: Path) -> None:
    """A misspelt folder would otherwise be no speech at all, without a word."""
    with pytest.raises(CorpusError, match="no recordings"):
        load_task(replace(tiny_source, speech=tmp_path / "speach"), fold=0)


@pytest.mark.parametrize(
    ("max_bad_share", "outcome"),
    [(0.02, lambda task: len(task.quarantined) == 1), (0.001, None)],
)
def test_bad_clips_are_named_and_left_out_up_to_the_allowed_share(
    tmp_path: Path, max_bad_share: float, outcome: Callable[[Task], bool] | None
) -> None:
    manifest = _write_manifest(tmp_path)
    (tmp_path / "empty.wav").touch()
    with manifest.open("a") as file:
        file.write('\n{"path": "empty.wav", "label": "no", "speaker": "nobody"}\n')
    source = replace(_source(manifest), max_bad_share=max_bad_share)
    if outcome is None:
        with pytest.raises(TooManyBadClips, match="1 of 81 clips are unusable"):
            load_task(source, fold=0)
        return
    task = load_task(source, fold=0)
    assert outcome(task)
    assert "empty.wav: 0 bytes" in task.quarantined[0]
    assert sum(len(part) for part in (task.training, task.validation, task.testing)) == 80


def test_bad_surroundings_are_named_and_left_out_too(tiny_source: Source, tmp_path: Path) -> None:
    """Whether they train or judge: what judges would otherwise be found bad after the training."""
    root, speech = tmp_path / "corpus", tmp_path / "speech"
    shutil.copytree(tiny_source.root, root)
    shutil.copytree(tiny_source.speech, speech)  # type: ignore[arg-type]
    hurt = [next((root / BACKGROUND_FOLDER).iterdir()), *speech.iterdir()]
    for path in hurt:
        path.write_bytes(path.read_bytes()[:1_000])
    task = load_task(replace(tiny_source, root=root, speech=speech, max_bad_share=0.05), fold=0)
    assert len(task.noises) == len(task.judging_noises) == len(task.other_sounds) == 1
    assert task.judging_speech == ()
    assert sorted(line.split(": ")[0] for line in task.quarantined) == sorted(map(str, hurt))
    with pytest.raises(TooManyBadClips, match=r"5 of 106 clips are unusable, at most 4\.0% allowed"):
        load_task(replace(tiny_source, root=root, speech=speech, max_bad_share=0.04), fold=0)


@pytest.mark.fault("F8")
def test_the_digest_names_noises_and_speech_as_well_as_the_words(
    tiny_source: Source, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """So that a run which is given others is refused as one of another configuration."""
    assert tiny_source.speech is not None
    root = shutil.copytree(tiny_source.root, tmp_path / "here" / "corpus")
    speech = shutil.copytree(tiny_source.speech, tmp_path / "there" / tiny_source.speech.name)
    moved = replace(tiny_source, root=root, speech=speech, cache=tmp_path / "cache", max_bad_share=1.0)
    first = load_task(tiny_source, fold=0).digest
    assert load_task(moved, fold=0).digest == first
    digests = [load_task(replace(moved, speech=None), fold=0).digest]
    noise, sentence, clip = (
        sorted(each.iterdir())[0] for each in (root / BACKGROUND_FOLDER, speech, root / "beep")
    )
    for path in (sentence, noise, clip):
        audio.write(path, audio.read(path)[:-1])
        digests.append(load_task(moved, fold=0).digest)
    assert len({first, *digests}) == 5
    record_property(
        "outcome",
        f"no --speech, other sentences, other noises, other clips: {len({*digests} - {first})} of {len(digests)} "
        "change the digest by which a run refuses other data",
    )


class Peak(torch.nn.Module):
    """Judges a clip by its last sample: the logits of its last step are (0, that sample)."""

    sample_rate = audio.SAMPLE_RATE

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Affine(1)

    def forward(self, waveforms: Tensor) -> Tensor:
        """`(clips, samples)` to `(clips, 2, samples)`."""
        return torch.stack((torch.zeros_like(waveforms), waveforms), dim=1)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 256])
def test_a_clip_score_is_that_of_its_last_step_whatever_the_batches(tiny_task: Task, batch_size: int) -> None:
    scores = clip_scores(Peak(), tiny_task.testing, batch_size=batch_size)
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, tiny_task.testing.pcm[:, -1] / 32_768)


def test_a_model_that_says_nothing_within_a_clip_is_refused(tiny_task: Task) -> None:
    network = CrnnConfig(kernel=(5, 200), attention_window=3)
    with pytest.raises(ModelError, match="nothing before the end of a clip; choose one that needs less sound"):
        clip_scores(Spotter(SpotterConfig(keyword="beep", network=network)), tiny_task.testing)
