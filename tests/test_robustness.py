"""The grid of conditions: the clean cell is the plain evaluation, and losses are compared on the same draws."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import Hark
from hark.configuration import build
from hark.errors import ConfigError, UsageError
from hark.judging.metrics import bootstrap_by_speaker, one_minus_auc
from hark.learning.dataset import Source, Task
from hark.network.spotter import Spotter
from hark.proof.evaluation import judge_clips, score_clips
from hark.proof.robustness import (
    GridScores,
    Robustness,
    compare_losses,
    judge_grid,
    judging_noises,
    score_grid,
    weighted_one_minus_auc,
)
from hark.record.runs import Run
from hark.shipping.torch_runner import TorchRunner
from hark.showing.results import read
from hark.sound.conditions import GAUSSIAN, grid_of

SPEAKERS, CLIPS = 30, 240
NOISE = {GAUSSIAN: None}


def scored(*, separation: float, worse_by: float = 0.0, seed: int = 0) -> GridScores:
    """Scores of a model whose classes are so far apart when clean, and nearer in every other cell."""
    rng = np.random.default_rng(seed)
    grid, labels = grid_of(NOISE), np.arange(CLIPS) % 4 == 0
    apart = np.full(len(grid), separation - worse_by)
    apart[0] = separation
    scores = rng.normal(size=CLIPS) + labels * apart[:, None]
    return GridScores(grid, scores, labels, np.array([f"{clip % SPEAKERS:02}" for clip in range(CLIPS)]))


def test_the_clean_cell_is_the_plain_evaluation_to_the_last_bit(
    tiny_task: Task, tiny_spotter: Callable[[], Spotter]
) -> None:
    runner, data = TorchRunner(tiny_spotter()), tiny_task.testing
    grid = score_grid(runner, data, NOISE)
    plain = score_clips(runner, data)
    np.testing.assert_array_equal(grid.scores[0], plain)
    assert (grid.scores[1:] != plain).any(axis=1).all(), "every other condition is heard"
    clean, judged = judge_grid(grid, threshold=None).cells[0], judge_clips(plain, data)
    assert [clean.one_minus_auc, list(clean.interval)] == [judged["one_minus_auc"], judged["interval"]]


def test_the_same_seed_gives_the_same_scores_and_another_seed_others(
    tiny_task: Task, tiny_spotter: Callable[[], Spotter]
) -> None:
    runner, data = TorchRunner(tiny_spotter()), tiny_task.testing
    some = replace(data, clips=data.clips[:4], pcm=data.pcm[:4], targets=data.targets[:4])
    first, same, other = (score_grid(runner, some, NOISE, seed=seed).scores for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    np.testing.assert_array_equal(first[0], other[0])
    assert (first[1] != other[1]).any()


def test_a_model_that_never_errs_has_zero_everywhere() -> None:
    sure = scored(separation=100.0)
    grid = judge_grid(sure, threshold=1 - 1e-12)
    figures = {(cell.one_minus_auc, cell.interval, cell.misses, cell.false_accepts) for cell in grid.cells}
    assert figures == {(0.0, (0.0, 0.0), 0, 0)}
    assert not sure.losses.any()
    assert {(d.difference, d.low, d.high, d.verdict) for d in compare_losses([(sure, sure)])} == {
        (0.0, 0.0, 0.0, "no difference shown")
    }


def test_misses_and_false_accepts_are_counted_at_the_models_own_threshold() -> None:
    """By hand: posteriors 0.9, 0.5 of keywords and 0.5, 0.1 of others, a threshold of 0.5 and one just above."""
    grid = grid_of([])
    scores = np.tile(np.array([np.log(9), 0.0, 0.0, -np.log(9)]), (len(grid), 1))
    found = GridScores(grid, scores, np.array([True, True, False, False]), np.array(list("abab")))
    at, above = (judge_grid(found, threshold=threshold).cells[0] for threshold in (0.5, 0.51))
    assert (at.misses, at.false_accepts) == (0, 1)
    assert (above.misses, above.false_accepts) == (1, 0)
    without = judge_grid(found, threshold=None).cells[0]
    assert (without.misses, without.false_accepts) == (None, None)
    assert at.one_minus_auc == 1 / 8


@given(
    scores=st.lists(st.integers(0, 5), min_size=4, max_size=12),
    times=st.lists(st.integers(0, 3), min_size=12, max_size=12),
)
def test_a_clip_drawn_so_often_counts_as_so_many_clips(scores: list[int], times: list[int]) -> None:
    """Ties included."""
    labels, drawn = np.arange(len(scores)) % 2 == 0, np.array([1, 1, *times])[: len(scores)]
    repeated = np.repeat(np.arange(len(scores)), drawn)
    expected = one_minus_auc(np.array(scores)[repeated], labels[repeated])
    found = weighted_one_minus_auc(np.array(scores, float), labels, np.stack([drawn, np.ones_like(drawn)]))
    assert found == pytest.approx([expected, one_minus_auc(scores, labels)])


def test_losses_are_measured_from_the_models_own_clean_cell() -> None:
    grid = scored(separation=2.0, worse_by=1.0)
    areas = np.array([one_minus_auc(scores, grid.labels) for scores in grid.scores])
    assert grid.losses[1:] == pytest.approx(areas[1:] - areas[0])
    assert grid.losses[0] == pytest.approx(np.mean(areas[1:] - areas[0]))
    assert grid.losses.min() > 0


def test_losses_over_draws_spread_as_the_metrics_own_bootstrap_does() -> None:
    """With nothing wrong in the clean cell a loss is an area."""
    grid = scored(separation=1.0)
    grid.scores[0] = np.where(grid.labels, 9.0, -9.0)
    expected = bootstrap_by_speaker(one_minus_auc, grid.scores[1], grid.labels, grid.speakers, seed=1)
    found = np.quantile(grid.resampled_losses[:, 1], [0.025, 0.975])
    assert found == pytest.approx(expected, abs=0.1 * (expected.high - expected.low))
    assert np.isfinite(grid.resampled_losses).all()


def test_draws_have_both_kinds_of_clips_however_few_speakers_said_the_keyword() -> None:
    grid = scored(separation=1.0)
    alone = replace(grid, speakers=np.where(grid.labels, "one", grid.speakers))
    assert np.isfinite(alone.resampled_losses).all()
    assert alone.resampled_losses.shape == (1000, len(grid.conditions))


def test_a_model_that_loses_more_is_told_apart_and_the_other_way_round() -> None:
    robust, frail = scored(separation=2.0), scored(separation=2.0, worse_by=1.0, seed=1)
    more, less = compare_losses([(frail, robust)]), compare_losses([(robust, frail)])
    assert {d.verdict for d in more} == {"loses more"}
    assert {d.verdict for d in less} == {"loses less"}
    for one, other in zip(more, less, strict=True):
        assert 0 < one.low <= one.difference <= one.high
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_a_model_that_is_worse_throughout_need_not_lose_more() -> None:
    good, poor = scored(separation=4.0), scored(separation=1.0, seed=1)
    poor.scores[:] = poor.scores[0]
    good.scores[:] = good.scores[0]
    assert {d.verdict for d in compare_losses([(poor, good)])} == {"no difference shown"}


def test_folds_are_averaged() -> None:
    first, second, robust = (scored(separation=2.0, worse_by=by, seed=3) for by in (1.0, 0.5, 0.0))
    both = compare_losses([(first, robust), (second, robust)])
    alone = [compare_losses([(frail, robust)]) for frail in (first, second)]
    for place, found in enumerate(both):
        assert found.loss == pytest.approx(np.mean([folds[place].loss for folds in alone]))
        assert found.low < found.difference < found.high


def test_what_cannot_be_paired_is_refused() -> None:
    grid = scored(separation=1.0)
    other_clips = replace(grid, speakers=grid.speakers[::-1])
    with pytest.raises(UsageError, match="no grids, expected pairs on the same clips"):
        compare_losses([])
    with pytest.raises(UsageError, match="grids of other clips or conditions, expected pairs"):
        compare_losses([(grid, other_clips)])
    fewer = replace(grid, conditions=grid.conditions[:2], scores=grid.scores[:2])
    with pytest.raises(UsageError, match="folds with other conditions, expected the same for all"):
        compare_losses([(grid, grid), (fewer, fewer)])


def test_noises_are_called_as_their_recordings_even_where_one_could_not_be_used(
    tiny_source: Source, tiny_task: Task
) -> None:
    named = judging_noises(tiny_task, tiny_source.noise_files)
    assert list(named) == [GAUSSIAN, "fan", "street"]
    fan = next(path for path in tiny_source.root.rglob("fan.wav"))
    without = replace(tiny_task, quarantined=(f"{fan}: is silent",), judging_noises=tiny_task.judging_noises[1:])
    remaining = judging_noises(without, tiny_source.noise_files)
    assert list(remaining) == [GAUSSIAN, "street"]
    assert remaining["street"] is tiny_task.judging_noises[1]


def test_cells_that_are_not_those_of_a_grid_are_no_grid() -> None:
    grid = judge_grid(scored(separation=1.0), threshold=None)
    plain = json.loads(json.dumps(grid.as_dict()))
    assert build(Robustness, plain, where="robustness.json") == grid
    plain["cells"].pop()
    with pytest.raises(ConfigError, match="expected a cell for each condition of the grid, in its order"):
        build(Robustness, plain, where="robustness.json")


@pytest.fixture
def own_run(mini_runs: Path, tmp_path: Path) -> Path:
    """A run of the first fold to write into."""
    return Path(shutil.copytree(mini_runs / "int8", tmp_path / "int8"))


@pytest.fixture
def corpus(tiny_source: Source) -> list[object]:
    """The options that name the tiny task."""
    return ["--data", tiny_source.root, "--keyword", "beep", "--folds", 2, "--speech", tiny_source.speech]


def test_evaluate_prints_the_grid_and_a_run_keeps_it(hark_: Hark, own_run: Path, corpus: list[object]) -> None:
    printed = hark_("evaluate", own_run, *corpus, "--grid", "--out", "grid.json").out
    kept = Run.open(own_run).read_json("robustness.json")
    assert kept == json.loads(Path("grid.json").read_text())
    result = read(Run.open(own_run))
    assert result.robustness is not None
    assert result.grid_scores is not None
    assert judge_grid(result.grid_scores, threshold=result.robustness.threshold) == result.robustness
    clean = result.robustness.cells[0]
    rows = {line[:18].strip(): line[18:].split() for line in printed.splitlines()}
    assert {GAUSSIAN, "fan", "street", "no room", "small room", "large room"} <= set(rows)
    assert rows["street"][:2] == rows["no room"][4:6] == [f"{clean.one_minus_auc:.5f}", str(clean.misses)]


def test_json_has_the_grid_beside_the_plain_figures(hark_: Hark, own_run: Path, corpus: list[object]) -> None:
    told = json.loads(hark_("evaluate", own_run / "model.hark", *corpus, "--grid", "--json").out)
    assert told["grid"]["cells"][0]["one_minus_auc"] == told["reset"]["one_minus_auc"]
    assert not (own_run / "robustness.json").exists(), "a model file alone has nowhere to keep it"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "grid.json"], "--out is where a grid is written, and there is none; add --grid"),
        (["--grid", "--fold", 1], "was made from other data or another fold; give its own, or the model file"),
    ],
)
def test_a_grid_that_would_be_lost_or_mislead_is_refused(
    hark_: Hark, own_run: Path, corpus: list[object], options: list[object], said: str
) -> None:
    outcome = hark_("evaluate", own_run, *corpus, *options)
    assert outcome.code == 2
    assert said in outcome.err
    assert not (own_run / "robustness.json").exists()
