"""The operating point that ships: no more alarms in life than allowed, then the fewest mistakes among words."""

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


SILENCE = heard([], sound="noise")


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


def log_odds(point: OperatingPoint) -> float:
    return float(np.log(point.threshold / (1 - point.threshold)))


def test_the_threshold_lies_where_words_are_told_from_others() -> None:
    stream = heard([6, 5, 2, 1], words=[0, 1])
    point = choose_point([stream], [SILENCE], alarms_per_hour=1.0, refractory_s=2.0)
    assert 2 < log_odds(point) <= 5
    assert (point.smoothing_steps, point.refractory_s) == (1, 2.0)
    assert (stream.at(point).alarms, stream.at(point).misses) == (0, 0)


def test_life_pushes_it_up_whatever_words_are_lost() -> None:
    words, life = heard([6, 5, 2, 1], words=[0, 1]), heard([5.5, 3], sound="speech")
    points = [
        choose_point([words], [life, SILENCE], alarms_per_hour=allowed / life.hours, refractory_s=2.0)
        for allowed in (0.0, 1.0, 2.0)
    ]
    assert [life.at(point).alarms for point in points] == [0, 1, 1]
    assert [words.at(point).misses for point in points] == [1, 0, 0]


def test_a_missed_word_weighs_as_much_as_a_false_one() -> None:
    """Words at 6 and 3 of two models, others at 5, 4 and 3.5: to lose one word is better than three alarms."""
    streams = [heard([6, 5], words=[0]), heard([3, 4, 3.5], words=[0])]
    point = choose_point(streams, [SILENCE], alarms_per_hour=1.0, refractory_s=1.0)
    (outcome,) = summed(stream.at(point) for stream in streams)
    assert (outcome.misses, outcome.alarms) == (1, 0)


def test_smoothing_is_taken_where_it_tells_words_from_clicks() -> None:
    scores = np.full(100, -20.0)
    scores[30:34], scores[60] = 6.0, 9.0  # a word lasts, a click does not
    stream = Heard("words", Loudness(), posterior(scores), 10 / 3600, (Word(2.5, 3.5),))
    point = choose_point([stream], [SILENCE], alarms_per_hour=1.0, refractory_s=1.0)
    assert (stream.at(point).alarms, stream.at(point).misses) == (0, 0)
    assert point.smoothing_steps == 2


def test_a_model_that_cannot_be_silenced_is_refused() -> None:
    always = Heard("speech", Loudness(), np.ones(100), 10 / 3600)
    with pytest.raises(ModelError, match=r"more than 1 alarms per hour at any threshold .* allow more alarms"):
        choose_point([heard([6], words=[0])], [always], alarms_per_hour=1.0, refractory_s=1.0)


@given(
    peaks=st.lists(st.tuples(st.floats(-4, 11), st.booleans()), min_size=1, max_size=8),
    others=st.lists(st.floats(-4, 11), max_size=8),
    allowed=st.integers(0, 8),
)
@settings(max_examples=25)
def test_no_other_point_within_the_rate_makes_fewer_mistakes(
    peaks: list[tuple[float, bool]], others: list[float], allowed: int
) -> None:
    words = heard([score for score, _ in peaks], [place for place, (_, is_word) in enumerate(peaks) if is_word])
    life = heard(others, sound="speech")
    chosen = choose_point([words], [life], alarms_per_hour=(allowed + 0.5) / life.hours, refractory_s=1.0)
    points = [OperatingPoint(threshold, steps) for threshold in THRESHOLDS for steps in SMOOTHINGS]
    within = [point for point in points if life.at(point).alarms <= allowed]
    assert chosen in within
    assert _mistakes(words.at(chosen)) == min(_mistakes(words.at(point)) for point in within)


def _mistakes(outcome: Listened) -> int:
    return outcome.misses + outcome.alarms


def test_outcomes_of_a_kind_are_summed() -> None:
    one = Listened(sound="words", hours=0.5, alarms=1, words=4, misses=2)
    other = Listened(sound="noise", hours=0.1, alarms=0)
    assert summed([one, other, one]) == (Listened(sound="words", hours=1.0, alarms=2, words=8, misses=4), other)
