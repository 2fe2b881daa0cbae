from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import chain
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from hark.errors import UsageError
from hark.judging.detection import Detection, Detector, DetectorState, OperatingPoint, Word, match

# Steps of 80 ms; the first comes out after 0.2 s.
HOP, FIRST, RATE = 1280, 3200, 16000


def detector(threshold: float = 0.5, smoothing_steps: int = 1, refractory_s: float = 0.0) -> Detector:
    operating_point = OperatingPoint(threshold, smoothing_steps, refractory_s)
    return Detector(operating_point, hop_samples=HOP, first_step_samples=FIRST, sample_rate=RATE)


def steps_heard(detector: Detector, posteriors: Sequence[float]) -> list[int]:
    """The steps on which a fresh stream of these posteriors gives a detection."""
    detections, _ = detector.step(posteriors, detector.initial_state())
    return [(detection.sample - FIRST) // HOP for detection in detections]


posteriors = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0, math.nan, math.inf]), max_size=30)
detectors = st.builds(detector, st.floats(0.1, 0.9), st.integers(1, 7), st.floats(0, 1))


# ── detector


@given(detectors, st.lists(posteriors, max_size=8))
def test_any_chunking_gives_the_offline_detections_and_state(
    detector: Detector, chunks: list[list[float]]
) -> None:
    offline, offline_state = detector.step(list(chain(*chunks)), detector.initial_state())
    streamed, state = [], detector.initial_state()
    for chunk in chunks:
        detections, state = detector.step(chunk, state)
        streamed += detections
    assert streamed == offline
    assert state == offline_state


@given(detectors, posteriors)
def test_one_step_at_a_time_gives_the_offline_detections(detector: Detector, posteriors: list[float]) -> None:
    offline, _ = detector.step(posteriors, detector.initial_state())
    streamed, state = [], detector.initial_state()
    for posterior in posteriors:
        detections, state = detector.step([posterior], state)
        streamed += detections
    assert streamed == offline


@given(detectors, posteriors, posteriors)
def test_the_future_never_changes_the_past(detector: Detector, past: list[float], future: list[float]) -> None:
    longer = steps_heard(detector, past + future)
    assert [step for step in longer if step < len(past)] == steps_heard(detector, past)


@given(detectors, posteriors)
def test_a_step_leaves_its_arguments_untouched(detector: Detector, posteriors: list[float]) -> None:
    given_posteriors, state = np.array(posteriors), detector.initial_state()
    detector.step(given_posteriors, state)
    np.testing.assert_array_equal(given_posteriors, posteriors)
    assert state == detector.initial_state()


@given(detectors, posteriors)
def test_detections_are_what_a_plain_loop_finds(detector: Detector, posteriors: list[float]) -> None:
    point = detector.operating_point
    clean = [p if math.isfinite(p) else 0.0 for p in posteriors]
    refractory_samples = round(point.refractory_s * RATE)
    expected: list[int] = []
    was_above = False
    for step in range(len(clean)):
        window = clean[max(0, step + 1 - point.smoothing_steps) : step + 1]
        score = reduce(add, window) / len(window)  # oldest first; `sum` compensates from Python 3.12 on
        ready = not expected or (step - expected[-1]) * HOP >= refractory_samples
        if score >= point.threshold and not was_above and ready:
            expected.append(step)
        was_above = score >= point.threshold
    assert steps_heard(detector, posteriors) == expected


def test_a_detection_says_when_and_how_sure_by_hand() -> None:
    detections, _ = detector().step([0.1, 0.75, 0.9], detector().initial_state())
    assert detections == [Detection(time_s=0.28, score=0.75, sample=4480)]


def test_a_score_that_stays_up_is_one_detection() -> None:
    assert steps_heard(detector(), [0.9] * 50) == [0]
    assert steps_heard(detector(), [0.9, 0.9, 0.1, 0.9]) == [0, 3]


def test_a_score_equal_to_the_threshold_is_a_detection() -> None:
    assert steps_heard(detector(threshold=0.5), [0.5]) == [0]


def test_smoothing_averages_the_last_steps_and_ignores_those_before_the_stream() -> None:
    smoothing = detector(threshold=0.6, smoothing_steps=3)
    assert steps_heard(smoothing, [0.6]) == [0]
    assert steps_heard(smoothing, [0.0, 0.9, 0.0, 0.9, 0.9]) == [3]  # 0.9 + 0 + 0.9 is 3 · 0.6


def test_the_refractory_time_ends_on_the_very_sample() -> None:
    blinking = [0.9, 0.1] * 4  # up every 160 ms
    assert steps_heard(detector(refractory_s=0.32), blinking) == [0, 4]
    assert steps_heard(detector(refractory_s=0.32 + 1 / RATE), blinking) == [0, 6]


def test_a_broken_posterior_counts_as_zero_and_is_counted() -> None:
    """Nothing of it stays in the window, so that the stream recovers by itself."""
    smoothing = detector(smoothing_steps=2)
    detections, state = smoothing.step([math.nan, 1.0, math.inf, -math.inf, 1.0], smoothing.initial_state())
    assert [(d.sample - FIRST) // HOP for d in detections] == [1, 4]
    assert state.replaced_steps == 3


def test_times_are_exact_and_the_state_no_larger_after_an_hour_of_10_ms_steps() -> None:
    hourly = Detector(OperatingPoint(0.5, 5), hop_samples=160, first_step_samples=160, sample_rate=RATE)
    state = hourly.initial_state()
    for _ in range(3599):
        _, state = hourly.step(np.zeros(100, np.float32), state)
    detections, state = hourly.step([0.0] * 95 + [1.0] * 5, state)
    assert [(d.time_s, d.sample) for d in detections] == [(3599.98, 57_599_680)]
    assert len(state.recent) == len(hourly.initial_state().recent)


def test_one_detector_serves_streams_that_do_not_mix() -> None:
    shared = detector(smoothing_steps=2)
    _, quiet = shared.step([0.0], shared.initial_state())
    loud, _ = shared.step([1.0], shared.initial_state())
    after_quiet, _ = shared.step([0.9], quiet)
    assert (len(loud), len(after_quiet)) == (1, 0)


def test_a_state_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        detector().initial_state().steps = 1  # type: ignore[misc]
    assert isinstance(hash(detector().initial_state()), int)


# ── words


def heard_at(*times_s: float) -> list[Detection]:
    return [Detection(time_s, 1.0, round(time_s * RATE)) for time_s in times_s]


quarters = st.integers(0, 40).map(lambda quarter: quarter / 4)
words = st.lists(st.builds(lambda onset, length: Word(onset, onset + length), quarters, quarters), max_size=12)
heard = st.lists(quarters, max_size=12).map(lambda times: heard_at(*times))


@given(heard, words)
def test_no_pairing_of_words_and_detections_has_more_hits(heard: list[Detection], words: list[Word]) -> None:
    fits = np.array(
        [[w.onset_s <= d.time_s <= w.end_s + 0.5 for w in words] for d in heard], dtype=np.int8
    ).reshape(len(heard), len(words))
    best = maximum_bipartite_matching(csr_array(fits)) if fits.size else np.array([])
    assert match(heard, words).hits == np.sum(best >= 0)


@given(heard, words)
def test_each_word_is_a_hit_or_a_miss_and_each_detection_a_hit_or_an_alarm(
    heard: list[Detection], words: list[Word]
) -> None:
    outcome = match(heard, words)
    assert outcome.hits + outcome.misses == len(words)
    both = outcome.hit_detections + outcome.alarm_detections
    assert sorted(both, key=lambda d: d.time_s) == sorted(heard, key=lambda d: d.time_s)


@given(heard, words)
def test_the_outcome_does_not_depend_on_the_order_of_the_lists(heard: list[Detection], words: list[Word]) -> None:
    assert match(heard[::-1], words[::-1]) == match(heard, words)


@pytest.mark.parametrize(("time_s", "hits"), [(0.99, 0), (1.0, 1), (1.5, 1), (2.0, 1), (2.01, 0)])
def test_a_hit_falls_between_the_onset_and_half_a_second_after_the_end(time_s: float, hits: int) -> None:
    outcome = match(heard_at(time_s), [Word(1.0, 1.5)])
    assert (outcome.hits, outcome.misses, outcome.alarms) == (hits, 1 - hits, 1 - hits)


def test_a_second_detection_of_the_same_word_is_an_alarm() -> None:
    outcome = match(heard_at(1.2, 1.4), [Word(1.0, 1.5)])
    assert [d.time_s for d in outcome.hit_detections] == [1.2]
    assert [d.time_s for d in outcome.alarm_detections] == [1.4]


def test_a_detection_goes_to_the_overlapping_word_whose_time_runs_out_first() -> None:
    """The long word was first, and can still have the later detection."""
    assert match(heard_at(1.5, 3.0), [Word(0.0, 4.0), Word(1.0, 1.5)]).hits == 2


def test_the_tolerance_can_be_chosen() -> None:
    assert match(heard_at(2.4), [Word(1.0, 1.5)], tolerance_s=1.0).hits == 1


def test_alarms_per_hour_by_hand() -> None:
    assert match(heard_at(1.0, 2.0, 3.0), []).alarms_per_hour(0.5) == 6.0


# ── what cannot be


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OperatingPoint(math.nan), "threshold nan, expected a finite number"),
        (lambda: OperatingPoint(0.5, smoothing_steps=0), "smoothing over 0 steps, expected 1 or more"),
        (lambda: OperatingPoint(0.5, refractory_s=-1.0), "refractory time of -1.0 s, expected 0 or more"),
        (lambda: OperatingPoint(0.5, refractory_s=math.nan), "refractory time of nan s, expected 0 or more"),
        (
            lambda: Detector(OperatingPoint(0.5), hop_samples=0, first_step_samples=400, sample_rate=RATE),
            "steps of 0 after 400 samples, 16000 Hz, expected all positive",
        ),
        (lambda: detector().step([[0.5]], DetectorState(())), r"posteriors \(1, 1\), expected \(steps,\)"),
        (lambda: Word(2.0, 1.0), "a word from 2.0 s to 1.0 s, expected an end after its onset"),
        (lambda: match([], [], tolerance_s=-0.1), "a tolerance of -0.1 s, expected 0 or more"),
        (lambda: match([], []).alarms_per_hour(0.0), "0.0 hours of sound, expected more than none"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_expected(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()
