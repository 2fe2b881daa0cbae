"""Judging: any chunking of a stream, sound that is broken, cases whose outcome is known beforehand."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contract import chunkings
from hark.errors import VerificationError
from hark.judging.detection import OperatingPoint
from hark.judging.metrics import accuracy, au_fa_fr, frr_at_far, one_minus_auc
from hark.learning.dataset import Dataset, Task, clip_scores
from hark.network.spotter import Spotter, SpotterConfig, keyword_score
from hark.network.streaming import SlidingWindow, State, StreamingModule
from hark.proof.evaluation import (
    check_stream,
    detections_in,
    detector_for,
    judge_clips,
    judge_recordings,
    judge_stream,
    judging_stream,
    nine_clips,
    posterior,
    stream_scores,
)
from hark.sound import audio
from hark.sound.corpus import Clip

NewSpotter = Callable[[], Spotter]
RATE = audio.SAMPLE_RATE
HALF = OperatingPoint(0.5)
SECONDS = 2
SOUND = np.random.default_rng(0).normal(0, 0.1, SECONDS * RATE).astype(np.float32)

LOUD, QUIET = 0.5, 0.05


class Loudness(StreamingModule):
    """A spotter that is never wrong about keywords that are loud: every 0.1 s it hears how loud they were."""

    step_samples = first_step_samples = RATE // 10
    config = SimpleNamespace(features=SimpleNamespace(sample_rate=RATE), keyword="loud")
    window = SlidingWindow(first_step_samples, step_samples)

    def initial_state(self, batch_size: int = 1) -> State:
        """Nothing heard."""
        return self.window.initial_state(torch.zeros(batch_size, 0))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Sound to logits (0, ±5): is the mean level above 0.4?"""
        ready, state = self.window.step(x, state)
        levels = ready.abs().unflatten(-1, (-1, self.step_samples)).mean(-1)
        scores = torch.where(levels > 0.4, 5.0, -5.0)
        return torch.stack((torch.zeros_like(scores), scores), dim=1), state


PERFECT: Spotter = Loudness()  # type: ignore[assignment]  # all that judging asks of one


def recording(path: Path, *, seconds: float, loud_at_s: tuple[float, ...]) -> Path:
    """A quiet recording with loud seconds in it."""
    levels = np.full(round(seconds * RATE), QUIET)
    for start in loud_at_s:
        levels[round(start * RATE) : round((start + 1) * RATE)] = LOUD
    audio.write(path, levels)
    return path


def loud_task(tiny_task: Task, *, positives: int, negatives: int) -> Task:
    """A task whose keyword is loud."""
    targets = np.arange(positives + negatives) < positives
    pcm = audio.to_pcm16(np.repeat(np.where(targets, LOUD, QUIET)[:, None], RATE, axis=1))
    clips = tuple(
        Clip(Path(f"{row}.wav"), "loud" if hit else "quiet", f"{row}") for row, hit in enumerate(targets)
    )
    data = Dataset(clips, pcm, targets)
    return replace(tiny_task, keyword="loud", validation=data, testing=data)


@pytest.fixture(scope="module")
def heard(tiny_spotter: NewSpotter) -> tuple[Spotter, np.ndarray]:
    """A spotter, and its scores of the sound as one chunk."""
    model = tiny_spotter().eval()
    (scores,) = stream_scores(model, [SOUND])
    return model, scores


@settings(max_examples=25)
@given(data=st.data())
def test_scores_of_a_stream_do_not_depend_on_its_chunks(
    heard: tuple[Spotter, np.ndarray], data: st.DataObject
) -> None:
    model, whole = heard
    chunks = np.split(SOUND, np.cumsum(data.draw(chunkings(len(SOUND))))[:-1])
    scores = list(stream_scores(model, chunks))
    assert len(scores) == len(chunks)
    np.testing.assert_allclose(np.concatenate(scores), whole, atol=1e-5)


def test_scores_of_a_stream_are_the_offline_ones_in_float64(heard: tuple[Spotter, np.ndarray]) -> None:
    model, scores = heard
    with torch.no_grad():
        offline = keyword_score(model(torch.from_numpy(SOUND)[None]))[0]
    assert scores.dtype == np.float64
    assert scores.shape == ((SECONDS * 100 - 20) // 16 + 1,)
    np.testing.assert_array_equal(scores, offline.numpy())


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_broken_sample_is_silence_and_gone_after_it(heard: tuple[Spotter, np.ndarray], broken: float) -> None:
    """One NaN in a recurrent state would stay there for ever."""
    model, _ = heard
    damaged, silenced = SOUND.copy(), SOUND.copy()
    damaged[5000:5003], silenced[5000:5003] = broken, 0
    (scores,), (expected,) = stream_scores(model, [damaged]), stream_scores(model, [silenced])
    np.testing.assert_array_equal(scores, expected)
    assert not np.isfinite(damaged[5000]), "what was given was changed"


def test_a_sample_of_absurd_size_does_not_poison_the_stream(heard: tuple[Spotter, np.ndarray]) -> None:
    """Its square is infinite in float32: a float recording may hold it, and it is finite."""
    damaged = SOUND.copy()
    damaged[5000] = 1e30
    (scores,) = stream_scores(heard[0], [damaged])
    assert np.isfinite(scores).all()


def test_posteriors_are_exact_and_stable_at_any_score() -> None:
    with np.errstate(all="raise", under="ignore"):
        extremes = posterior(np.array([-1000.0, -30.0, 0.0, 30.0, 1000.0]))
    np.testing.assert_allclose(extremes, [0, 9.357622968839e-14, 0.5, 1, 1], rtol=1e-12)
    scores = np.linspace(-20, 20, 999)
    logits = torch.stack((torch.zeros(999, dtype=torch.float64), torch.from_numpy(scores)))
    np.testing.assert_allclose(posterior(scores), torch.softmax(logits, dim=0)[1].numpy(), rtol=1e-12)
    assert (np.diff(posterior(scores)) > 0).all()


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
    clips, labels = nine_clips(tiny_task.testing)
    checked = check_stream(model, clips, labels=labels, chunk_frames=(1, 10, 20))
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
    clips, labels = nine_clips(tiny_task.testing)
    with pytest.raises(VerificationError, match=said):
        check_stream(model.eval(), clips, labels=labels, chunk_frames=[10])


def test_the_clock_of_a_detector_is_that_of_the_models_steps(tiny_spotter: NewSpotter) -> None:
    detector = detector_for(tiny_spotter(), HALF)
    assert (detector.first_step_samples, detector.hop_samples, detector.sample_rate) == (3200, 2560, 16_000)


def test_detections_fall_when_the_keyword_is_complete_enough(tmp_path: Path) -> None:
    """Loud from 2.0 and from 31.0 s: the first windows of 0.1 s that are loud end 0.1 s later."""
    path = recording(tmp_path / "a.wav", seconds=40, loud_at_s=(2.0, 31.0))
    found = list(detections_in(PERFECT, path, HALF))
    assert [detection.time_s for detection in found] == pytest.approx([2.1, 31.1])
    assert [detection.sample for detection in found] == [33_600, 497_600]
    assert all(detection.score == pytest.approx(posterior(np.array(5.0))) for detection in found)


def test_detecting_takes_as_much_memory_for_minutes_as_for_seconds(tmp_path: Path) -> None:
    def peak(seconds: float) -> int:
        path = recording(tmp_path / f"{seconds}.wav", seconds=seconds, loud_at_s=())
        tracemalloc.start()
        try:
            list(detections_in(PERFECT, path, HALF))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(12)  # what is loaded and cached at the first time
    assert peak(180) < peak(30) + 1_000_000  # bytes; the longer recording is 9.6 MB longer as float32


def test_detections_come_while_the_sound_still_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: object, **__: object) -> Iterator[np.ndarray]:
        while True:
            yield np.full(RATE * 2, LOUD, np.float32)
            yield np.full(RATE * 2, QUIET, np.float32)

    monkeypatch.setattr(audio, "blocks", endless)
    times = [found.time_s for found in islice(detections_in(PERFECT, Path("endless"), HALF), 3)]
    assert times == pytest.approx([0.1, 4.1, 8.1])


def test_recordings_are_judged_by_where_the_keyword_truly_is(tmp_path: Path) -> None:
    """One hit, one alarm where another word is, one miss; a recording without the keyword counts its hours."""
    first = recording(tmp_path / "first.wav", seconds=20, loud_at_s=(2.0, 8.0))
    second = recording(tmp_path / "second.wav", seconds=16, loud_at_s=())
    truth = [
        Clip(first, "loud", "a", start_s=2.0, duration_s=1.0),
        Clip(first, "other", "a", start_s=8.0, duration_s=1.0),
        Clip(first, "loud", "a", start_s=14.0, duration_s=1.0),
        Clip(second, "other", "b"),
    ]
    judged = judge_recordings(PERFECT, truth, HALF)
    assert (judged["words"], judged["misses"], judged["alarms"]) == (2, 1, 1)
    assert judged["hours"] == pytest.approx(36 / 3600)
    assert judged["alarms_per_hour"] == pytest.approx(100)
