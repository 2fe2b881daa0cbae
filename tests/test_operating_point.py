"""The operating point that ships: no more alarms than allowed, and then as few misses as can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hark.errors import ModelError
from hark.judging.detection import OperatingPoint, Word
from hark.judging.listening import posterior
from hark.models.card import Listened
from hark.releasing.operating_point import SMOOTHINGS, THRESHOLDS, Heard, choose_point, hear, summed
from loudness import LOUD, QUIET, RATE, Loudness


def heard(peaks: Sequence[float], words: Sequence[int] = (), *, sound: str = "words", step_s: int = 30) -> Heard:
    """A stream of a step each 0.1 s, silent but for a peak of so many log-odds every 3 s; some are words."""
    scores = np.full(step_s * (len(peaks) + 1), -20.0)
    scores[step_s * (1 + np.arange(len(peaks)))] = peaks
    places = [(0.1 * (step_s * (1 + place))) for place in words]
    spoken = tuple(Word(place - 0.5, place + 0.5) for place in places)
    return Heard(sound, Loudness(), posterior(scores), len(scores) / 36_000, spoken)


def test_what_is_heard_is_the_posterior_of_a_carried_stream() -> None:
    sound = np.concatenate([np.full(RATE, level, np.float32) for level in (QUIET, LOUD, QUIET)])
    words = [Word(1.0, 2.0)]
    found = hear(Loudness(), "words", np.array_split(sound, 7), words)
    assert len(found.posteriors) == 30
    assert found.hours == pytest.approx(3 / 3600)
    expected = Listened(sound="words", hours=found.hours, alarms=0, words=1, misses=0)
    assert found.at(OperatingPoint(0.5)) == expected


def test_thresholds_fall_and_a_file_can_hold_them() -> None:
    assert list(THRESHOLDS) == sorted(set(THRESHOLDS), reverse=True)
    assert [float(np.float32(threshold)) for threshold in THRESHOLDS] == list(THRESHOLDS)
    assert THRESHOLDS[0] < 1


def test_the_threshold_lies_between_the_words_and_the_alarms_that_are_too_many() -> None:
    """Words at 6 and 4, others at 5 and 1: to find both words one alarm must be taken."""
    stream = [heard([6, 5, 4, 1], words=[0, 2])]
    per_hour = 1 / stream[0].hours
    point, (outcome,) = choose_point(stream, alarms_per_hour=per_hour, refractory_s=1.0)
    assert (outcome.alarms, outcome.misses, outcome.words) == (1, 0, 2)
    assert 1 < np.log(point.threshold / (1 - point.threshold)) <= 4
    assert (point.smoothing_steps, point.refractory_s) == (1, 1.0)
    _, (strict,) = choose_point(stream, alarms_per_hour=0.9 * per_hour, refractory_s=1.0)
    assert (strict.alarms, strict.misses) == (0, 1)


def test_alarms_are_counted_over_all_that_was_heard() -> None:
    streams = [heard([6], words=[0]), heard([5], words=[0]), heard([5.5], sound="speech")]
    hours = sum(stream.hours for stream in streams)
    _, outcomes = choose_point(streams, alarms_per_hour=0.5 / hours, refractory_s=1.0)
    assert [(one.sound, one.alarms, one.misses) for one in outcomes] == [("words", 0, 1), ("speech", 0, 0)]
    _, outcomes = choose_point(streams, alarms_per_hour=1 / hours, refractory_s=1.0)
    assert [(one.alarms, one.misses) for one in outcomes] == [(0, 0), (1, 0)]


def test_smoothing_is_taken_where_it_tells_words_from_clicks() -> None:
    scores = np.full(100, -20.0)
    scores[30:34], scores[60] = 6.0, 9.0  # a word lasts, a click does not
    stream = Heard("words", Loudness(), posterior(scores), 10 / 3600, (Word(2.5, 3.5),))
    point, (outcome,) = choose_point([stream], alarms_per_hour=1.0, refractory_s=1.0)
    assert (outcome.alarms, outcome.misses) == (0, 0)
    assert point.smoothing_steps == 2


def test_a_model_that_cannot_be_silenced_is_refused() -> None:
    always = Heard("speech", Loudness(), np.ones(100), 10 / 3600)
    with pytest.raises(ModelError, match=r"more than 1 alarms per hour at any threshold .* allow more alarms"):
        choose_point([always], alarms_per_hour=1.0, refractory_s=1.0)


@given(
    peaks=st.lists(st.tuples(st.floats(-4, 11), st.booleans()), min_size=1, max_size=8),
    allowed=st.integers(0, 8),
)
@settings(max_examples=25)
def test_no_other_point_within_the_rate_misses_fewer(peaks: list[tuple[float, bool]], allowed: int) -> None:
    words = [place for place, (_, is_word) in enumerate(peaks) if is_word]
    stream = heard([score for score, _ in peaks], words)
    _, (outcome,) = choose_point([stream], alarms_per_hour=(allowed + 0.5) / stream.hours, refractory_s=1.0)
    others = [stream.at(OperatingPoint(threshold, steps)) for threshold in THRESHOLDS for steps in SMOOTHINGS]
    assert outcome.alarms <= allowed
    assert outcome.misses == min(other.misses for other in others if other.alarms <= allowed)


def test_outcomes_of_a_kind_are_summed() -> None:
    one = Listened(sound="words", hours=0.5, alarms=1, words=4, misses=2)
    other = Listened(sound="noise", hours=0.1, alarms=0)
    assert summed([one, other, one]) == (Listened(sound="words", hours=1.0, alarms=2, words=8, misses=4), other)
