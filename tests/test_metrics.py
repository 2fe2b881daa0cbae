from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from hark.errors import UsageError
from hark.judging.metrics import (
    accuracy,
    alarm_rate_interval,
    alarm_statement,
    at_reference_prior,
    au_fa_fr,
    bootstrap_by_speaker,
    det_points,
    equal_error_rate,
    error_curve,
    frr_at_far,
    mean_and_spread,
    one_minus_auc,
    paired_bootstrap_by_speaker,
    paired_difference,
    thin,
    threshold_at_far,
)

Judged = tuple[np.ndarray, np.ndarray]


@st.composite
def judged_clips(draw: st.DrawFn) -> Judged:
    """Scores with many ties and labels of both classes, in any order."""
    score = st.integers(-6, 6).map(lambda n: n / 4) | st.floats(-1e3, 1e3)
    clips = draw(st.lists(st.tuples(score, st.booleans()), max_size=40))
    clips += [(draw(score), True), (draw(score), False)]
    scores, labels = zip(*draw(st.permutations(clips)), strict=True)
    return np.array(scores), np.array(labels)


def clips_by_speakers(speakers: int = 350, clips: int = 1400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlapping scores in which a speaker's clips succeed and fail together."""
    rng = np.random.default_rng(5)
    speaker = np.arange(clips) % speakers
    labels = rng.random(clips) < 0.25
    scores = 2.0 * labels + rng.normal(size=speakers)[speaker] + 0.1 * rng.normal(size=clips)
    return scores, labels, np.array([f"speaker-{number}" for number in speaker])


# One positive of three lies below one of two negatives: 1 of 6 pairs is misranked.
SCORES = np.array([3.0, 2.0, 0.5, 1.0, -1.0])
LABELS = np.array([True, True, True, False, False])


# ── ranking


@given(judged_clips())
def test_one_minus_auc_is_what_scikit_learn_says(clips: Judged) -> None:
    scores, labels = clips
    assert one_minus_auc(scores, labels) == pytest.approx(1 - roc_auc_score(labels, scores), abs=1e-12)


@given(judged_clips())
def test_au_fa_fr_is_one_minus_auc_times_the_prior_factor(clips: Judged) -> None:
    scores, labels = clips
    share = labels.mean()
    expected = one_minus_auc(scores, labels) * share * (1 - share)
    assert au_fa_fr(scores, labels) == pytest.approx(expected, abs=1e-12)


@given(judged_clips())
def test_ranking_ignores_the_order_of_the_clips_and_any_scale_of_the_scores(clips: Judged) -> None:
    scores, labels = clips
    assert one_minus_auc(2 * scores[::-1], labels[::-1]) == one_minus_auc(scores, labels)


def test_ranking_by_hand() -> None:
    assert one_minus_auc(SCORES, LABELS) == pytest.approx(1 / 6)
    assert au_fa_fr(SCORES, LABELS) == pytest.approx(1 / 25)  # 1 misranked pair of 5 · 5


def test_a_tie_counts_half() -> None:
    assert one_minus_auc([1.0, 1.0], [True, False]) == 0.5


def test_float64_logits_are_told_apart_where_float32_would_tie() -> None:
    assert one_minus_auc([20.0 + 1e-9, 20.0], [True, False]) == 0.0


def test_the_reference_prior_gives_the_figures_of_the_reference_report() -> None:
    assert at_reference_prior(0.0021) == pytest.approx(5.5e-5, rel=0.02)
    assert at_reference_prior(0.0011) == pytest.approx(2.87e-5, rel=0.02)


# ── thresholds


@given(judged_clips())
def test_the_error_curve_counts_the_errors_at_each_of_its_thresholds(clips: Judged) -> None:
    scores, labels = clips
    curve = error_curve(scores, labels)
    for threshold, accepts, rejects in zip(
        curve.thresholds, curve.false_accept_rate, curve.false_reject_rate, strict=True
    ):
        assert accepts == np.mean(scores[~labels] >= threshold)
        assert rejects == np.mean(scores[labels] < threshold)


@given(judged_clips())
def test_the_error_curve_has_the_points_of_scikit_learn(clips: Judged) -> None:
    scores, labels = clips
    false_positives, true_positives, _ = roc_curve(labels, scores, drop_intermediate=False)
    curve = error_curve(scores, labels)
    np.testing.assert_allclose(curve.false_accept_rate[::-1], false_positives, atol=1e-12)
    np.testing.assert_allclose(1 - curve.false_reject_rate[::-1], true_positives, atol=1e-12)


@given(judged_clips())
def test_the_error_curve_runs_monotonously_from_accepting_all_to_accepting_none(clips: Judged) -> None:
    curve = error_curve(*clips)
    assert (np.diff(curve.thresholds) > 0).all() and np.isfinite(curve.thresholds).all()
    assert (np.diff(curve.false_accept_rate) <= 0).all()
    assert (np.diff(curve.false_reject_rate) >= 0).all()
    assert (curve.false_accept_rate[0], curve.false_reject_rate[0]) == (1, 0)
    assert (curve.false_accept_rate[-1], curve.false_reject_rate[-1]) == (0, 1)


@given(judged_clips())
def test_thinning_to_the_corners_changes_no_area(clips: Judged) -> None:
    curve = error_curve(*clips)
    thinned = thin(curve, len(curve.thresholds))
    area = np.trapezoid(curve.false_reject_rate, curve.false_accept_rate)
    assert np.trapezoid(thinned.false_reject_rate, thinned.false_accept_rate) == pytest.approx(area)


@given(judged_clips(), st.integers(2, 20))
def test_a_thinned_curve_is_part_of_the_curve_with_both_ends(clips: Judged, points: int) -> None:
    curve = error_curve(*clips)
    thinned = thin(curve, points)
    assert len(thinned.thresholds) <= points
    assert set(thinned.thresholds) <= set(curve.thresholds)
    assert (thinned.thresholds[0], thinned.thresholds[-1]) == (curve.thresholds[0], curve.thresholds[-1])


def test_thinning_drops_the_points_inside_straight_runs() -> None:
    """The only corner of two separated classes is where all is right."""
    curve = error_curve([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [False, False, False, True, True, True])
    assert thin(curve, 100).thresholds.tolist() == [1.0, 4.0, curve.thresholds[-1]]


@given(judged_clips(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]) | st.floats(0, 1))
def test_frr_at_far_is_the_best_that_any_threshold_can_do(clips: Judged, far: float) -> None:
    scores, labels = clips
    candidates = np.append(scores, np.inf)
    allowed = [t for t in candidates if np.mean(scores[~labels] >= t) <= far]
    best = min(float(np.mean(scores[labels] < t)) for t in allowed)
    assert frr_at_far(scores, labels, far) == best


@given(judged_clips(), st.floats(0, 1))
def test_threshold_at_far_gives_the_rates_it_promises(clips: Judged, far: float) -> None:
    scores, labels = clips
    threshold = threshold_at_far(scores, labels, far)
    assert np.mean(scores[~labels] >= threshold) <= far
    assert np.mean(scores[labels] < threshold) == frr_at_far(scores, labels, far)


def test_a_rate_that_is_exactly_reached_is_allowed() -> None:
    """3 of 10 is 0.3, although 1 − 0.7 is more in floating point."""
    scores, labels = np.arange(20.0), np.arange(20) >= 10
    scores[:10] += 8  # negatives 8 … 17, positives 10 … 19
    assert threshold_at_far(scores, labels, 0.3) == 15.0
    assert frr_at_far(scores, labels, 0.3) == 0.5


@given(judged_clips())
def test_the_equal_error_rate_lies_between_the_two_rates_of_every_threshold(clips: Judged) -> None:
    curve, rate = error_curve(*clips), equal_error_rate(*clips)
    lower = np.minimum(curve.false_accept_rate, curve.false_reject_rate)
    upper = np.maximum(curve.false_accept_rate, curve.false_reject_rate)
    assert (lower <= rate + 1e-12).all() and (rate <= upper + 1e-12).all()


@given(judged_clips())
def test_the_equal_error_rate_does_not_care_which_class_is_the_positive_one(clips: Judged) -> None:
    scores, labels = clips
    assert equal_error_rate(-scores, ~labels) == pytest.approx(equal_error_rate(scores, labels))


def test_the_equal_error_rate_by_hand() -> None:
    assert equal_error_rate([1.0, 1.0], [True, False]) == 0.5
    assert equal_error_rate([0.0, 2.0, 1.0, 3.0], [False, False, True, True]) == 0.5
    assert equal_error_rate([0.0, 1.0], [False, True]) == 0.0


def test_accuracy_accepts_at_the_threshold_itself() -> None:
    assert accuracy([0.0, -1.0, 2.0, -0.5], [True, False, False, True]) == 0.5
    assert accuracy(SCORES, LABELS, threshold=0.5) == 0.8


@given(judged_clips())
def test_det_points_are_the_normal_deviates_of_the_curve_without_its_infinite_ends(clips: Judged) -> None:
    curve = error_curve(*clips)
    finite = (curve.false_accept_rate > 0) & (curve.false_accept_rate < 1)
    finite &= (curve.false_reject_rate > 0) & (curve.false_reject_rate < 1)
    false_accepts, false_rejects = det_points(curve)
    np.testing.assert_allclose(stats.norm.cdf(false_accepts), curve.false_accept_rate[finite])
    np.testing.assert_allclose(stats.norm.cdf(false_rejects), curve.false_reject_rate[finite])


# ── how far to trust a number


def test_the_bootstrap_interval_holds_the_metric_and_is_the_same_for_the_same_seed() -> None:
    scores, labels, speakers = clips_by_speakers()
    interval = bootstrap_by_speaker(one_minus_auc, scores, labels, speakers, seed=1, resamples=200)
    assert interval.low < one_minus_auc(scores, labels) < interval.high
    assert interval == bootstrap_by_speaker(one_minus_auc, scores, labels, speakers, seed=1, resamples=200)
    assert interval != bootstrap_by_speaker(one_minus_auc, scores, labels, speakers, seed=2, resamples=200)


def test_a_draw_holds_all_clips_of_each_drawn_speaker_as_often_as_the_speaker_was_drawn() -> None:
    speakers = np.array(["ann", "ben", "ben", "cid", "cid", "cid"])
    scores = np.arange(6.0)
    labels = np.array([True, False, True, False, True, False])
    drawn: list[list[int]] = []

    def remember(scores: np.ndarray, labels: np.ndarray) -> float:
        drawn.append(np.bincount(scores.astype(int), minlength=6).tolist())
        return 0.0

    bootstrap_by_speaker(remember, scores, labels, speakers, seed=0, resamples=50)
    assert all(ben == other and cid == a == b for _, ben, other, cid, a, b in drawn)
    assert all(ann + ben + cid == 3 for ann, ben, _, cid, _, _ in drawn)
    assert len({tuple(times) for times in drawn}) > 5


def test_drawing_speakers_admits_more_doubt_than_drawing_clips_where_speakers_differ() -> None:
    scores, labels, speakers = clips_by_speakers(speakers=70)
    by_speaker = bootstrap_by_speaker(one_minus_auc, scores, labels, speakers, seed=0, resamples=300)
    as_if_independent = np.arange(len(scores))
    by_clip = bootstrap_by_speaker(one_minus_auc, scores, labels, as_if_independent, seed=0, resamples=300)
    assert by_speaker.high - by_speaker.low > 1.5 * (by_clip.high - by_clip.low)


def test_the_bootstrap_interval_of_a_mean_is_the_one_of_normal_theory() -> None:
    scores, labels, _ = clips_by_speakers(speakers=400, clips=400)
    interval = bootstrap_by_speaker(lambda s, _: float(s.mean()), scores, labels, np.arange(400), seed=0)
    mean, margin = scores.mean(), 1.96 * scores.std() / np.sqrt(400)
    assert interval == pytest.approx((mean - margin, mean + margin), abs=0.1 * margin)


def test_a_draw_with_one_class_only_is_drawn_again() -> None:
    interval = bootstrap_by_speaker(one_minus_auc, [1.0, 0.0], [True, False], ["ann", "ben"], seed=0)
    assert interval == (0.0, 0.0)


def test_a_model_does_not_differ_from_itself() -> None:
    scores, labels, speakers = clips_by_speakers()
    assert paired_bootstrap_by_speaker(
        one_minus_auc, (scores, scores), labels, speakers, seed=0, resamples=20
    ) == (0.0, 0.0)


def test_the_paired_interval_finds_a_small_difference_that_separate_intervals_hide() -> None:
    scores, labels, speakers = clips_by_speakers()
    both = (scores - 0.3 * labels, scores)
    worse, better = (
        bootstrap_by_speaker(one_minus_auc, each, labels, speakers, seed=0, resamples=200) for each in both
    )
    difference = paired_bootstrap_by_speaker(one_minus_auc, both, labels, speakers, seed=0, resamples=200)
    assert worse.low < better.high
    assert difference.low > 0


def test_a_thousand_resamples_of_a_fold_take_under_two_seconds() -> None:
    scores, labels, speakers = clips_by_speakers()
    began = time.process_time()
    bootstrap_by_speaker(one_minus_auc, scores, labels, speakers, seed=0)
    assert time.process_time() - began < 2.0


def test_mean_and_spread_by_hand() -> None:
    assert mean_and_spread([1.0, 2.0, 3.0]) == (2.0, 1.0)


def test_one_value_alone_has_no_spread() -> None:
    mean, spread = mean_and_spread([4.0])
    assert mean == 4.0 and np.isnan(spread)


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=2, max_size=8))
def test_the_paired_difference_excludes_zero_exactly_when_the_t_test_is_significant(
    pairs: list[tuple[float, float]],
) -> None:
    a, b = (np.array(values) for values in zip(*pairs, strict=True))
    difference = paired_difference(a, b)
    if np.std(a - b) > 1e-6:
        expected = stats.ttest_rel(a, b).confidence_interval(0.95)
        assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert difference.mean == pytest.approx(np.mean(a - b))
    assert difference.values == tuple(a - b)


def test_the_paired_difference_by_hand() -> None:
    """With two folds Student's t at 95 % is 12.706."""
    difference = paired_difference([3.0, 5.0], [2.0, 2.0])
    assert difference.values == (1.0, 3.0)
    assert difference[:3] == pytest.approx((2.0, 2.0 - 12.706, 2.0 + 12.706), rel=1e-4)


@given(st.integers(1, 200), st.floats(0.01, 1e4), st.sampled_from([0.8, 0.95, 0.99]))
def test_outside_the_exact_interval_such_a_count_would_be_a_surprise(
    alarms: int, hours: float, level: float
) -> None:
    """At either end, so few or so many alarms have exactly the chance of one tail."""
    low, high = alarm_rate_interval(alarms, hours, level)
    assert stats.poisson.sf(alarms - 1, low * hours) == pytest.approx((1 - level) / 2)
    assert stats.poisson.cdf(alarms, high * hours) == pytest.approx((1 - level) / 2)


def test_no_alarm_leaves_only_an_upper_end() -> None:
    assert alarm_rate_interval(0, 1.0) == pytest.approx((0.0, 3.689), rel=1e-3)


@pytest.mark.parametrize(
    ("alarms", "hours", "said"),
    [
        (3, 0.52, "3 alarms in 0.52 h: 5.8 per hour (95 % interval 1.2–16.9)"),
        (1, 2.0, "1 alarm in 2 h: 0.5 per hour (95 % interval 0.0–2.8)"),
        (0, 0.5, "no alarm in 0.5 h proves only < 6.0 per hour"),
    ],
)
def test_the_alarm_statement_says_what_a_count_proves(alarms: int, hours: float, said: str) -> None:
    assert alarm_statement(alarms, hours) == said


# ── what cannot be judged


@pytest.mark.parametrize("metric", [one_minus_auc, au_fa_fr, error_curve, equal_error_rate])
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [False, False], "0 positive and 2 negative clips, expected some of both"),
        ([1.0, 2.0], [True, True], "2 positive and 0 negative clips, expected some of both"),
        ([1.0, np.nan, np.inf], [True, False, True], "2 of 3 scores are NaN or infinite, expected finite"),
        ([1.0, 2.0, 3.0], [True, False], r"scores \(3,\), labels \(2,\), expected the same \(clips,\)"),
        ([[1.0, 2.0]], [[True, False]], r"scores \(1, 2\), labels \(1, 2\), expected"),
        ([], [], r"scores \(0,\), labels \(0,\), expected"),
    ],
)
def test_unusable_scores_are_refused_with_what_was_found(
    metric: Callable[..., object], scores: list[float], labels: list[bool], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        metric(scores, labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frr_at_far(SCORES, LABELS, 5.0), "a false accept rate of 5.0, expected 0 to 1"),
        (lambda: threshold_at_far(SCORES, LABELS, np.nan), "a false accept rate of nan, expected 0 to 1"),
        (lambda: thin(error_curve(SCORES, LABELS), 1), "a curve of 1 points, expected at least 2"),
        (lambda: mean_and_spread([]), "no values to average, expected at least one"),
        (lambda: paired_difference([1.0], [2.0]), "1 and 1 values, expected two or more pairs"),
        (lambda: paired_difference([1.0, 2.0], [2.0]), "2 and 1 values, expected two or more pairs"),
        (lambda: alarm_rate_interval(1, 0.0), "1 alarms in 0.0 h, expected a count and some hours"),
        (lambda: alarm_rate_interval(-1, 1.0), "-1 alarms in 1.0 h, expected a count and some hours"),
        (
            lambda: bootstrap_by_speaker(one_minus_auc, SCORES, LABELS, ["ann"] * 5, seed=0),
            "1 speakers of 5 clips for 5 scores, expected one for each clip, two or more",
        ),
        (
            lambda: bootstrap_by_speaker(one_minus_auc, SCORES, LABELS, ["ann", "ben"], seed=0),
            "2 speakers of 2 clips for 5 scores, expected one for each clip",
        ),
        (
            lambda: bootstrap_by_speaker(accuracy, [1.0, 2.0], [True, True], ["ann", "ben"], seed=0),
            "2 positive and 0 negative clips, expected some of both",
        ),
    ],
)
def test_a_question_without_an_answer_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_importing_the_metrics_loads_neither_scipy_nor_torch() -> None:
    loaded = "import sys, hark.judging.metrics; print(sorted({'scipy', 'torch'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
