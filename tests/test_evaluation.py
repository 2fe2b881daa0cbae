"""Judging: any chunking of a stream, sound that is broken, cases whose outcome is known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hark.errors import ModelError, VerificationError
from hark.judging.metrics import accuracy, au_fa_fr, frr_at_far, one_minus_auc
from hark.learning.dataset import Dataset, Source, Task, clip_scores, load_task
from hark.network.spotter import Spotter, SpotterConfig
from hark.network.streaming import State
from hark.proof.evaluation import (
    check_stream,
    judge_clips,
    judge_stream,
    judging_stream,
    nine_clips,
    score_clips,
)
from hark.shipping.torch_runner import TorchRunner
from hark.sound import audio
from hark.sound.corpus import Clip
from loudness import LOUD, QUIET, RATE, Loudness

NewSpotter = Callable[[], Spotter]
PERFECT = Loudness()


def loud_task(tiny_task: Task, *, positives: int, negatives: int) -> Task:
    """A task whose keyword is loud."""
    targets = np.arange(positives + negatives) < positives
    pcm = audio.to_pcm16(np.repeat(np.where(targets, LOUD, QUIET)[:, None], RATE, axis=1))
    clips = tuple(
        Clip(Path(f"{row}.wav"), "loud" if hit else "quiet", f"{row}") for row, hit in enumerate(targets)
    )
    data = Dataset(clips, pcm, targets)
    return replace(tiny_task, keyword="loud", validation=data, testing=data)


def test_the_figures_of_clips_are_those_of_the_metrics(tiny_task: Task, tiny_spotter: NewSpotter) -> None:
    data = tiny_task.testing
    scores = clip_scores(tiny_spotter(), data)
    judged = judge_clips(scores, data)
    assert judged["one_minus_auc"] == one_minus_auc(scores, data.targets)
    assert judged["au_fa_fr"] == au_fa_fr(scores, data.targets)
    assert judged["accuracy"] == accuracy(scores, data.targets)
    assert judged["frr_at_far"] == {
        "0.001": frr_at_far(scores, data.targets, 0.001),
        "0.01": frr_at_far(scores, data.targets, 0.01),
    }
    assert judged["at_reference_prior"] == pytest.approx(0.02587 * judged["one_minus_auc"], rel=1e-3)
    assert (judged["clips"], judged["positives"], judged["speakers"], judged["prior"]) == (50, 20, 10, 0.4)
    low, high = judged["interval"]
    assert low <= judged["one_minus_auc"] <= high


def test_clips_are_scored_each_from_a_fresh_state(tiny_task: Task, tiny_spotter: NewSpotter) -> None:
    """In any order the same scores, those of the batch that training watches."""
    model, data = tiny_spotter().eval(), tiny_task.testing
    scores = score_clips(TorchRunner(model), data)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, clip_scores(model, data), atol=1e-5)
    backwards = replace(data, clips=data.clips[::-1], pcm=data.pcm[::-1], targets=data.targets[::-1])
    np.testing.assert_array_equal(score_clips(TorchRunner(model), backwards)[::-1], scores)


def test_a_model_that_needs_more_sound_than_a_clip_is_refused(tiny_task: Task) -> None:
    runner = Loudness()
    runner.first_step_samples = RATE + 1
    with pytest.raises(ModelError, match="gives nothing before the end of a clip"):
        score_clips(runner, tiny_task.testing)


def test_a_spotter_that_is_never_wrong_misses_nothing_and_raises_no_alarm(tiny_task: Task) -> None:
    task = loud_task(tiny_task, positives=6, negatives=9)
    scores = np.where(task.testing.targets, 5.0, -5.0)
    judged = judge_stream(PERFECT, task, validation=scores, testing=scores)
    counts = ("words", "misses_reset", "misses_carried", "alarms", "alarms_per_hour")
    assert [judged[name] for name in counts] == [6, 0, 0, 0, 0]
    samples = sum(len(piece.waveform) for piece in judging_stream(task))
    assert judged["hours"] == pytest.approx(samples / RATE / 3600)
    assert judged["threshold"] == pytest.approx(1 / (1 + np.exp(-5.0)))
    assert judged["interval"][0] == 0 < judged["interval"][1]
    assert "proves only" in judged["statement"]


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 48_000])
def test_a_model_hears_clips_and_stream_at_its_own_rate(tiny_task: Task, sample_rate: int) -> None:
    """The same sound of the same length, so that figures of different rates can be compared."""
    task, runner = loud_task(tiny_task, positives=6, negatives=9), Loudness(sample_rate=sample_rate)
    scores = score_clips(runner, task.testing)
    np.testing.assert_array_equal(scores, np.where(task.testing.targets, 5.0, -5.0))
    judged, plain = (judge_stream(each, task, validation=scores, testing=scores) for each in (runner, PERFECT))
    assert judged == plain
    clips, _ = nine_clips(task.testing, sample_rate=sample_rate)
    assert [len(clip) for clip in clips] == [sample_rate] * 9


def test_a_loud_clip_that_is_no_keyword_is_an_alarm_and_a_quiet_keyword_a_miss(tiny_task: Task) -> None:
    task = loud_task(tiny_task, positives=6, negatives=9)
    wrong = task.testing.targets.copy()
    wrong[[0, 1, 8]] = [False, False, True]
    mislabelled = replace(task, testing=replace(task.testing, targets=wrong))
    scores = np.where(task.testing.targets, 5.0, -5.0)
    judged = judge_stream(PERFECT, mislabelled, validation=scores, testing=scores)
    assert [judged[name] for name in ("words", "misses_reset", "misses_carried", "alarms")] == [5, 1, 1, 2]


@given(positives=st.integers(1, 12), negatives=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_no_keyword_of_the_judging_stream_follows_another(
    tiny_task: Task, positives: int, negatives: int, seed: int
) -> None:
    """Between two lie two backgrounds and a whole clip, more than a detector's refractory time of 1 s."""
    stream = judging_stream(loud_task(tiny_task, positives=positives, negatives=negatives), seed=seed)
    places = [place for place, piece in enumerate(stream) if piece.is_keyword]
    others = negatives + len(tiny_task.judging_speech)
    assert len(places) == min(positives, others)
    for one, other in pairwise(places):
        between = stream[one + 1 : other]
        assert len(between) >= 3
        assert sum(len(piece.waveform) for piece in between) >= 1.4 * RATE
    assert not stream[0].is_keyword
    assert len(stream) == 2 * (others + len(places))


def test_the_judging_stream_is_the_same_for_every_model(tiny_task: Task) -> None:
    first, second = judging_stream(tiny_task), judging_stream(tiny_task)
    assert all(np.array_equal(one.waveform, other.waveform) for one, other in zip(first, second, strict=True))


def test_a_sentence_is_heard_whole_and_not_once_more_in_pieces(tiny_source: Source) -> None:
    whole, cut = (load_task(replace(tiny_source, cut_speech=half), fold=0) for half in ("no", "both"))
    assert len(cut.testing) > len(whole.testing)
    lengths = [sum(len(piece.waveform) for piece in judging_stream(task)[::2]) for task in (whole, cut)]
    assert lengths[0] == lengths[1]


def test_backgrounds_are_quiet_and_of_judging_noise(tiny_task: Task) -> None:
    stream = judging_stream(tiny_task)
    backgrounds = [piece.waveform for piece in stream[1::2]]
    assert all(RATE // 5 <= len(sound) < 3 * RATE // 5 for sound in backgrounds)
    levels = [float(np.sqrt(np.mean(sound**2))) for sound in backgrounds]
    np.testing.assert_allclose(levels, 0.003, rtol=1e-3)
    silent = judging_stream(replace(tiny_task, judging_noises=()))
    assert not silent[1].waveform.any()


def test_a_stream_that_agrees_with_offline_passes_with_its_figures(
    tiny_task: Task, tiny_spotter: NewSpotter
) -> None:
    model = tiny_spotter().eval()
    clips, labels = nine_clips(tiny_task.testing, sample_rate=RATE)
    checked = check_stream(TorchRunner(model), clips, labels=labels, chunk_frames=(1, 10, 20))
    assert [row["chunk_frames"] for row in checked["chunks"]] == [1, 10, 20]
    assert all(0 <= row["largest_difference"] <= 1e-5 for row in checked["chunks"])
    # 900 frames in windows of 20 every 16.
    assert len(checked["times_s"]) == len(checked["posteriors"]) == 56
    np.testing.assert_allclose(checked["times_s"], 0.2 + 0.16 * np.arange(56))
    assert checked["word"] == [4.0, 5.0]
    assert checked["borders_s"] == list(range(10))
    assert checked["labels"] == labels
    assert [label == "beep" for label in labels] == [place == 4 for place in range(9)]


class Forgetful(Spotter):
    """Replays the field's fault: the convolution loses its overlap at every chunk."""

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Begin anew."""
        return super().step(x, self.initial_state(len(x)))


class Amnesic(Spotter):
    """As many outputs as there should be, from a recurrent state that is lost at every chunk."""

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Keep all but the GRU's state."""
        y, after = super().step(x, state)
        after["network"]["gru"] = self.network.gru.initial_state(len(x))  # type: ignore[index, call-overload]
        return y, after


class Undefined(Spotter):
    """Hears nothing but NaN."""

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Any output times NaN."""
        y, after = super().step(x, state)
        return y * torch.nan, after


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Forgetful, r"chunks of 10 frames gave 0 steps, offline \d+; the model does not stream"),
        (Amnesic, "chunks of 10 frames differ by .* from offline, expected 1e-05"),
        (Undefined, "chunks of 10 frames differ by nan from offline"),
    ],
)
def test_a_model_that_does_not_stream_is_found_out(
    tiny_task: Task, tiny_spotter: NewSpotter, kind: type[Spotter], said: str
) -> None:
    model = kind(SpotterConfig(keyword="beep", network=tiny_spotter().config.network))
    model.load_state_dict(tiny_spotter().state_dict())
    clips, labels = nine_clips(tiny_task.testing, sample_rate=RATE)
    with pytest.raises(VerificationError, match=said):
        check_stream(TorchRunner(model), clips, labels=labels, chunk_frames=[10])
