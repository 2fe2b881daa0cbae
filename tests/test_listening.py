"""Listening: any chunking of a stream, sound that is broken, recordings whose outcome is known beforehand."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import chunkings
from hark.judging.detection import OperatingPoint
from hark.judging.listening import detections_in, judge_recordings, posterior, stream_scores
from hark.network.spotter import Spotter, keyword_score
from hark.runtime import detector_for
from hark.shipping.torch_runner import TorchRunner
from hark.sound import audio
from hark.sound.corpus import Clip
from loudness import LOUD, QUIET, RATE, Loudness, recording

NewSpotter = Callable[[], Spotter]
PERFECT = Loudness()
HALF = OperatingPoint(0.5)
SECONDS = 2
SOUND = np.random.default_rng(0).normal(0, 0.1, SECONDS * RATE).astype(np.float32)


@pytest.fixture(scope="module")
def heard(tiny_spotter: NewSpotter) -> tuple[TorchRunner, np.ndarray]:
    """A runner, and its scores of the sound as one chunk."""
    runner = TorchRunner(tiny_spotter())
    (scores,) = stream_scores(runner, [SOUND])
    return runner, scores


@settings(max_examples=25)
@given(data=st.data())
def test_scores_of_a_stream_do_not_depend_on_its_chunks(
    heard: tuple[TorchRunner, np.ndarray], data: st.DataObject
) -> None:
    runner, whole = heard
    chunks = np.split(SOUND, np.cumsum(data.draw(chunkings(len(SOUND))))[:-1])
    scores = list(stream_scores(runner, chunks))
    assert len(scores) == len(chunks)
    np.testing.assert_allclose(np.concatenate(scores), whole, atol=1e-5)


def test_a_logit_that_stands_alone_is_the_score_and_its_sigmoid_the_posterior(tmp_path: Path) -> None:
    """Of one class or of two: the same scores, posteriors, detections and hits."""
    alone = Loudness(("loud",))
    path = recording(tmp_path / "r.wav", seconds=12, loud_at_s=(2, 7))
    sound = audio.read(path)
    (one,), (two,) = stream_scores(alone, [sound]), stream_scores(PERFECT, [sound])
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(alone.stream().step(sound)[:, 0], posterior(one), rtol=1e-6)
    times = [[found.time_s for found in detections_in(runner, path, HALF)] for runner in (alone, PERFECT)]
    assert times[0] == times[1]
    assert len(times[0]) == 2
    truth = [Clip(path, "loud", "s", start_s=start, duration_s=1.0) for start in (2, 7)]
    assert judge_recordings(alone, truth, HALF) == judge_recordings(PERFECT, truth, HALF)


def test_scores_of_a_stream_are_the_offline_ones_in_float64(heard: tuple[TorchRunner, np.ndarray]) -> None:
    runner, scores = heard
    with torch.no_grad():
        offline = keyword_score(runner.model(torch.from_numpy(SOUND)[None]))[0]
    assert scores.dtype == np.float64
    assert scores.shape == ((SECONDS * 100 - 20) // 16 + 1,)
    np.testing.assert_allclose(scores, offline.numpy(), atol=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_broken_sample_is_silence_and_gone_after_it(
    heard: tuple[TorchRunner, np.ndarray], broken: float
) -> None:
    """One NaN in a recurrent state would stay there for ever."""
    runner, _ = heard
    damaged, silenced = SOUND.copy(), SOUND.copy()
    damaged[5000:5003], silenced[5000:5003] = broken, 0
    (scores,), (expected,) = stream_scores(runner, [damaged]), stream_scores(runner, [silenced])
    np.testing.assert_array_equal(scores, expected)
    assert not np.isfinite(damaged[5000]), "what was given was changed"


def test_a_sample_of_absurd_size_does_not_poison_the_stream(heard: tuple[TorchRunner, np.ndarray]) -> None:
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


def test_the_clock_of_a_detector_is_that_of_the_models_steps(tiny_spotter: NewSpotter) -> None:
    detector = detector_for(TorchRunner(tiny_spotter()), HALF)
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
