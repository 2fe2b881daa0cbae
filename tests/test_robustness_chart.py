"""Grids in the report: every cell has its number, in letters that can be read; losses beside the base's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hark.errors import RunError
from hark.files import write_atomically
from hark.proof.robustness import GridScores, judge_grid
from hark.record.runs import Run, find_runs
from hark.showing.report import render
from hark.showing.robustness_chart import heat_maps, losses_against_base, mean_errors
from hark.showing.study import Study, collect
from hark.sound.conditions import CLEAN, Condition, grid_of

NOISES = ("Gaussian", "<fan>", "running_tap")
GRID = grid_of(NOISES)
CLIPS = 80


def add_grid(folder: Path, setting: str, fold: int, *, separation: float, kind: str = "train") -> Run:
    """A judged run with a grid whose cells are the worse the later they come."""
    about = {"setting": setting, "group": "ours", "kind": kind, "fold": fold, "seed": 0, "parents": []}
    run = Run.create(folder / f"fold-{fold}", setting, about=about | {"order": len(setting)})
    layer = {"name": "conv", "rhythm": "step", "thop": 9, "macs": 9, "parameters": 9, "bytes": 9}
    macs = {"macs_per_clip_thop": 90, "macs_per_second": 90, "frontend_macs_per_second": 90, "parameters": 9}
    run.write_json("cost.json", macs | {"file_bytes": 90, "latency_ms": 80.0, "layers": [layer]})
    rng, labels = np.random.default_rng(fold), np.arange(CLIPS) % 3 == 0
    scores = rng.normal(size=CLIPS) + labels * np.linspace(separation, 0.5, len(GRID))[:, None]
    found = GridScores(GRID, scores, labels, np.array([f"{clip % 16:02}" for clip in range(CLIPS)]))
    run.write_json("robustness.json", judge_grid(found, threshold=0.5).as_dict())
    write_atomically(run.path("robustness.npz"), found.to_bytes())
    return run


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two folds of a base and of a small setting; a grid of a third that the base has not."""
    for fold in (0, 1):
        add_grid(tmp_path, "base", fold, separation=2.0)
        add_grid(tmp_path, "smaller", fold, separation=4.0, kind="distill")
    add_grid(tmp_path, "elsewhere", 2, separation=2.0)
    return collect(find_runs([tmp_path]))


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_every_cell_shows_its_number_and_every_row_and_column_its_name() -> None:
    errors = {condition: 0.001 * (1 + place) for place, condition in enumerate(GRID)}
    shown = texts(heat_maps(errors, name="a", title="b"))
    numbers = [text for text in shown if re.fullmatch(r"\d+\.\d+", text)]
    cells = [1 + place for place in range(len(GRID))] + [1] * len(NOISES)  # the clean cell stands in every row
    assert sorted(map(float, numbers)) == sorted(cells)
    assert {"&lt;fan&gt;", "running tap", "clean", "0 dB", "+10 dB", "no room", "large room"} <= set(shown)


def test_letters_are_white_on_dark_and_dark_on_light() -> None:
    errors = dict.fromkeys(GRID, 0.0) | {GRID[1]: 0.5}
    svg = heat_maps(errors, name="a", title="b")
    styles = {text: style for style, text in re.findall(r'<text[^>]*style="([^"]*)"[^>]*>(\d[^<]*)</text>', svg)}
    assert "fill: #ffffff" in styles["500"]
    assert "fill: #1d2433" in styles["0"]


def test_a_setting_s_errors_are_the_means_over_its_folds(study: Study) -> None:
    base = next(setting for setting in study.settings if setting.name == "base")
    first, second = (result.robustness for result in base.results)
    assert first is not None
    assert second is not None
    assert mean_errors(base)[GRID[5]] == pytest.approx(
        (first.cells[5].one_minus_auc + second.cells[5].one_minus_auc) / 2
    )
    assert list(mean_errors(base)) == list(GRID)


def test_losses_are_those_against_the_base_of_the_group_on_folds_that_both_have(study: Study) -> None:
    found = {setting.name: differences for setting, differences in losses_against_base(study).items()}
    assert list(found) == ["smaller"]
    assert [d.condition for d in found["smaller"]] == list(GRID)
    mean_over_all = found["smaller"][0]
    smaller = next(setting for setting in study.settings if setting.name == "smaller")
    expected = np.mean([r.grid_scores.losses[0] for r in smaller.results if r.grid_scores is not None])
    assert mean_over_all.loss == pytest.approx(expected)


def test_the_page_has_a_map_for_each_setting_and_a_table_of_losses(study: Study) -> None:
    page = render(study)
    assert page.count("in noise, at other levels and in rooms, in 10⁻³") == 3
    assert "<strong>smaller</strong> against base." in page
    assert "mean over all" in page
    assert "&lt;fan&gt; at 10 dB" in page
    assert "<fan>" not in page


def test_without_grids_the_page_says_nothing_of_robustness(tmp_path: Path) -> None:
    Run.create(tmp_path, "a", about={"setting": "a", "group": "ours", "kind": "train", "fold": 0, "seed": 0})
    assert 'id="robustness"' not in render(collect(find_runs([tmp_path])))


@pytest.mark.parametrize("damage", ["missing", "torn", "other"])
def test_a_grid_whose_scores_are_damaged_is_named(tmp_path: Path, damage: str) -> None:
    run = add_grid(tmp_path, "base", 0, separation=2.0)
    path = run.path("robustness.npz")
    if damage == "missing":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:300])
    else:
        labels = np.arange(CLIPS) % 3 == 0
        few = GridScores((CLEAN, Condition(gain_db=10.0)), np.ones((2, CLIPS)), labels, np.array(["a"] * CLIPS))
        path.write_bytes(few.to_bytes())
    with pytest.raises(
        RunError, match=r"robustness\.npz: expected scores and labels of clips \(.*\); evaluate again"
    ):
        collect(find_runs([tmp_path]))


def test_grids_of_other_clips_are_not_compared(tmp_path: Path, study: Study) -> None:
    settings = []
    for setting in study.settings:
        grids = [
            replace(r.grid_scores, speakers=r.grid_scores.speakers[::-1]) for r in setting.results if r.grid_scores
        ]
        results = tuple(replace(r, grid_scores=g) for r, g in zip(setting.results, grids, strict=True))
        settings.append(replace(setting, results=results) if setting.name == "smaller" else setting)
    assert losses_against_base(replace(study, settings=tuple(settings))) == {}
