"""The report: its numbers are those of the runs, and the page stands on its own."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hark.errors import RunError, UsageError
from hark.files import write_atomically
from hark.proof.checks import Check, Verification
from hark.record.runs import Run, find_runs
from hark.record.standing import note
from hark.showing.study import Study, collect, pareto_front

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from hark.cli.report import report as command
from hark.showing.report import render, write_report
from hark.showing.wording import count, headline, mean_and_spread, significant, times

# (setting, group, kind, parents, MACs, parameters, bytes, metric in 1e-5 per fold)
Row = tuple[str, str, str, list[str], int, int, int, list[float]]
ROWS: list[Row] = [
    ("base", "ours", "train", [], 1000, 400, 8000, [1.0, 2.0]),
    ("small", "ours", "distill", ["base"], 100, 40, 800, [4.0, 6.0]),
    ("small, int8", "ours", "quantize", ["small"], 100, 40, 200, [4.5, 6.3]),
    ("base", "reference", "train", [], 1000, 400, 8000, [5.0, 7.0]),
    ("small", "reference", "distill", ["base"], 100, 40, 800, [9.0, 8.0]),
]


def cost(macs: int, parameters: int, file_bytes: int) -> dict[str, Any]:
    """A network of one layer with 10 steps per clip and 12.5 per second, behind a front end of 100 frames."""
    front = {"name": "features", "rhythm": "frame", "thop": 0, "macs": 50, "parameters": 0, "bytes": 0}
    layer = {"name": "conv", "rhythm": "step", "thop": macs // 10, "macs": macs // 10}
    return {
        "parameters": parameters,
        "macs_per_clip_thop": macs,
        "macs_per_clip": macs,
        "macs_per_second": macs // 10 * 12.5,
        "frontend_macs_per_second": 5000,
        "latency_ms": 80.0,
        "layers": [front, {**layer, "parameters": parameters, "bytes": file_bytes // 2}],
        "file_bytes": file_bytes,
        "file": "model.safetensors",
    }


def add_run(folder: Path, row: Row, fold: int, **about: object) -> Run:
    """A finished run with costs and a judgement, and nothing else."""
    setting, group, kind, parents, macs, parameters, file_bytes, metric = row
    order = ROWS.index(row) if row in ROWS else 0
    known = {"setting": setting, "group": group, "kind": kind, "fold": fold, "seed": 0, "order": order}
    name = re.sub(r"\W+", "-", setting).strip("-")
    run = Run.create(folder / group / f"fold-{fold}", name, about={**known, "parents": parents, **about})
    run.write_json("cost.json", cost(macs, parameters, file_bytes))
    at_prior = metric[fold] * 1e-5
    run.write_json("evaluation.json", {"one_minus_auc": at_prior / 0.02587, "at_reference_prior": at_prior})
    run.log("finished", step=None)
    return run


def add_everything(run: Run) -> None:
    """All that a run can leave behind."""
    rng = np.random.default_rng(run.about["fold"])
    labels = np.arange(200) < 50
    with io.BytesIO() as buffer:
        np.savez(buffer, scores=rng.normal(size=200) + 3 * labels, labels=labels)
        write_atomically(run.path("scores.npz"), buffer.getvalue())
    run.write_json("environment.json", {"commit": "abc123", "python": "3.11.9", "packages": {"torch": "2.13.0"}})
    run.write_json("task.json", {"keyword": "happy", "clips": 7024, "positives": 1558, "speakers": 1683})
    chunks = [
        {"chunk_frames": 1, "largest_difference": 1.25e-7},
        {"chunk_frames": 20, "largest_difference": 0.0},
    ]
    check = {"chunks": chunks, "word": [4.0, 5.0], "labels": list("abcdefghi"), "borders_s": list(range(10))}
    run.write_json("check_stream.json", check | {"times_s": [0.5, 4.5, 8.5], "posteriors": [0.0, 0.9, 0.1]})
    stream = {"hours": 0.5, "words": 100, "misses_reset": 3, "misses_carried": 4, "alarms": 0}
    run.write_json("stream.json", stream)
    run.write_json("verification.json", verification(1.5e-7 * (1 + run.about["fold"])).as_dict())
    damage = {"shares": [0.0, 0.3], "row_wise": [0.001, 0.25], "unit_wise": [0.001, 0.002]}
    run.write_json("pruning_damage.json", damage)
    for step in (1, 2, 3):
        run.log("train", step=step, loss=1 / step, rate=1000.0)
        run.log("validation", step=step, one_minus_auc=0.01 / step)
    run.log("fallback", step=2, reason="checkpoint 3 is damaged")


def verification(difference: float) -> Verification:
    """A law of torch, so far from kept, and one of the engine."""
    law = Check(
        name="torch, chunks",
        compared="torch in random chunks against one call",
        steps=100,
        missing_steps=0,
        largest_difference=difference,
        allowed=1e-5,
        first_differing_step=None if difference <= 1e-5 else 7,
    )
    exact = replace(law, name="engine, chunks", largest_difference=0.0, allowed=0.0, first_differing_step=None)
    return Verification(artefact="torch and engine", checks=(law, exact))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of all settings, judged."""
    runs = tmp_path_factory.mktemp("judged")
    for row in ROWS:
        for fold in (0, 1):
            add_run(runs, row, fold)
    return runs


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return collect(find_runs([folder]))


@pytest.fixture(scope="module")
def page(study: Study) -> str:
    return render(study)


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of two folds with all that runs can leave behind."""
    folder = tmp_path_factory.mktemp("full")
    for row in ROWS[:3]:
        for fold in (0, 1):
            add_everything(add_run(folder, row, fold))
    return render(collect(find_runs([folder])))


class Reader(HTMLParser):
    """Headings, table rows and balance of a page."""

    VOID = ("meta", "br", "link", "img", "use", "path")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("h1", "h2"):
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip()
        if self.open[-1:] in (["h1"], ["h2"]):
            self.headings[-1] += data

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == name)


def by_name(study: Study, name: str, group: str = "ours") -> Any:
    return next(s for s in study.settings if (s.name, s.group) == (name, group))


def test_factors_are_against_the_base_of_the_same_group(study: Study) -> None:
    factors = study.factors(by_name(study, "small, int8"))
    assert factors is not None
    assert (factors.macs, factors.parameters, factors.bytes) == (10, 10, 40)


def test_the_smallest_is_the_smallest_file_whose_mean_is_within_the_bar(study: Study) -> None:
    assert study.smallest is by_name(study, "small, int8")


def test_the_headline_names_the_smallest_model_and_both_factors(study: Study) -> None:
    assert headline(study)[0] == "“small, int8”: 10.0× fewer MACs and a 40.0× smaller file than “base”"


def test_a_run_on_all_clips_is_not_what_the_headline_tells_of(tmp_path: Path) -> None:
    task = {"keyword": "happy", "clips": 7024, "positives": 1558, "speakers": 1683}
    for name, split in (("a", "whole"), ("b", "speakers")):
        run = add_run(tmp_path / name, ("tiny", "ours", "train", [], 10, 4, 80, [9.0]), 0)
        run.write_json("task.json", task | {"split": split})
    assert headline(collect(find_runs([tmp_path])))[1].endswith("judged on one fold by speaker.")


def test_the_headline_tells_the_length_of_clips_and_that_nobody_knows_who_speaks(tmp_path: Path) -> None:
    task = {"keyword": "snowboy", "clips": 770, "positives": 401, "speakers": 770}
    run = add_run(tmp_path, ("tiny", "ours", "train", [], 10, 4, 80, [9.0]), 0)
    run.write_json("task.json", task | {"clip_s": 2.0, "names_speakers": False})
    told = headline(collect(find_runs([tmp_path])))
    assert told[1].endswith("among 770 clips, 401 of them positive; judged on one fold by file.")
    assert told[2].startswith("All clips are made 2 s long")
    assert told[3].startswith("No speaker is named twice: each file counts as one of its own")


def test_without_a_model_within_the_bar_the_headline_says_so_and_names_the_best(tmp_path: Path) -> None:
    add_run(tmp_path, ("tiny", "ours", "train", [], 10, 4, 80, [9.0]), 0)
    first, *others = headline(collect(find_runs([tmp_path])))
    assert first == "“tiny” hears best: 9.00\u00a0×\u00a010⁻⁵"
    assert others[-1].endswith("5.5\u00a0×\u00a010⁻⁵, is not reached.")


Points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1)


@given(Points)
def test_no_point_beats_one_on_the_front_and_every_other_is_beaten(points: list[tuple[int, int]]) -> None:
    front = pareto_front(points)

    def beaten(point: tuple[float, float]) -> bool:
        return any(q != point and q[0] <= point[0] and q[1] <= point[1] for q in points)

    assert not any(map(beaten, front))
    assert all(map(beaten, set(points) - set(front)))


def test_differences_pair_a_quantised_model_with_its_parent_on_the_same_fold(study: Study) -> None:
    (difference,) = study.differences
    assert (difference.setting.name, difference.parent) == ("small, int8", "small")
    assert difference.paired.values == pytest.approx((0.5, 0.3))
    assert difference.paired.mean == pytest.approx(0.4)
    assert difference.verdict == "no difference shown"


def test_the_parent_may_be_a_step_that_has_no_row_of_its_own(tmp_path: Path) -> None:
    for fold in (0, 1):
        add_run(tmp_path, ROWS[1], fold, setting=None)
        add_run(tmp_path, ROWS[2], fold)
    study = collect(find_runs([tmp_path]))
    assert [s.name for s in study.settings] == ["small, int8"]
    assert study.differences[0].parent == "small"


def test_every_number_of_the_table_is_that_of_the_runs(folder: Path, page: str) -> None:
    runs = [run for run in find_runs([folder]) if run.about["setting"] == "small, int8"]
    areas = [1e3 * run.read_json("evaluation.json")["one_minus_auc"] for run in runs]
    row = Reader(page).row("small, int8")
    # 10 operations × 12.5 steps + 5000 in the front end; under each count its factor
    assert row[1:5] == ["10010.0×", "5,125", "4010.0×", "20040.0×"]
    assert row[5] == "5.40 ± 1.27"
    assert row[6] == f"{np.mean(areas):.2f} ± {np.std(areas, ddof=1):.2f}"
    assert row[7] == "small-int8 0 1model.safetensors"


def test_what_the_reference_report_left_blank_stays_blank(page: str) -> None:
    printed = [row for row in Reader(page).rows if row[-1] == "typed, not measured"]
    assert [(row[0], row[1], row[3], row[4]) for row in printed] == [
        ("base", "933,8081×", "70,4431×", "285 KB1×"),
        ("base, dynamic qint8", "–", "–", "83 KB3.43×"),
        ("stage 2", "92,60010.1×", "3,11722.6×", "47 KB6.06×"),
        ("stage 2, dynamic qint8", "–", "3,11722.6×", "14 KB20.4×"),
    ]


def test_layers_add_up_to_the_totals(study: Study) -> None:
    costs = by_name(study, "base").costs
    assert sum(layer.macs_per_clip for layer in costs.layers) == costs.macs_per_clip
    assert sum(layer.macs_per_second for layer in costs.layers) == costs.macs_per_second


def test_layers_of_a_real_network_add_up_to_its_totals(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from hark.network.crnn import PUBLISHED
    from hark.network.spotter import Spotter, SpotterConfig
    from hark.proof.cost import cost_of

    run = add_run(tmp_path, ROWS[0], 0)
    counted = cost_of(Spotter(SpotterConfig(keyword="happy", network=PUBLISHED["base"]))).as_dict()
    run.write_json("cost.json", counted | {"file": "model.safetensors", "file_bytes": 285_000})
    costs = by_name(collect([run]), "base").costs
    assert costs.macs_per_clip == 933_808
    assert sum(layer.macs_per_clip for layer in costs.layers) == pytest.approx(costs.macs_per_clip)
    assert sum(layer.macs_per_second for layer in costs.layers) == pytest.approx(costs.macs_per_second)


def test_streams_are_summed_over_folds_and_say_what_no_alarm_proves(tmp_path: Path) -> None:
    for fold in (0, 1):
        add_everything(add_run(tmp_path, ROWS[0], fold))
    (streamed,) = collect(find_runs([tmp_path])).streamed
    assert (streamed.words, streamed.misses_reset, streamed.misses_carried) == (200, 6, 8)
    assert streamed.more_missed == pytest.approx(1.0)
    assert streamed.statement == "no alarm in 1 h proves only < 3.0 per hour"


def test_the_page_tells_everything_in_order(full_page: str) -> None:
    assert Reader(full_page).headings[1:] == [
        "Every setting",
        "What small costs",
        "Every threshold",
        "What quantising and pruning cost",
        "Training",
        "Streaming",
        "Proof",
        "Pruning a GRU",
        "Where the operations are",
        "How this was made",
    ]
    assert "differs from offline by at most 1.25\u00a0×\u00a010⁻⁷" in full_page
    assert "checkpoint 3 is damaged" in full_page


def test_each_check_shows_its_largest_difference_over_folds_and_what_is_allowed(full_page: str) -> None:
    rows = Reader(full_page).rows
    header = next(row for row in rows if row[1:2] == ["torch, chunks"])
    assert header == ["setting", "torch, chunks", "engine, chunks"]
    row = next(row for row in rows[rows.index(header) :] if row[0] == "small")
    assert row[1:] == ["3.00\u00a0×\u00a010⁻⁷1.00\u00a0×\u00a010⁻⁵", "00"]
    assert "12 of 12 checks passed" in full_page


def test_a_check_that_failed_is_told_apart(tmp_path: Path) -> None:
    for fold, difference in ((0, 1e-7), (1, 0.5)):
        add_run(tmp_path, ROWS[0], fold).write_json("verification.json", verification(difference).as_dict())
    page = render(collect(find_runs([tmp_path])))
    assert "3 of 4 checks passed" in page
    assert '<span class="warning">1 of 2 failed</span> 0.500' in page


def test_a_part_without_data_is_left_out_heading_and_all(page: str) -> None:
    headings = Reader(page).headings
    assert headings[1:] == [
        "Every setting",
        "What small costs",
        "What quantising and pruning cost",
        "Where the operations are",
        "How this was made",
    ]


def test_one_fold_has_no_spread_and_no_paired_differences(tmp_path: Path) -> None:
    for row in ROWS[:3]:
        add_everything(add_run(tmp_path, row, 0))
    page = Reader(render(collect(find_runs([tmp_path]))))
    assert page.row("small")[5] == "4.00"
    assert "What quantising and pruning cost" not in page.headings
    assert "Every threshold" in page.headings


def test_a_run_that_has_only_begun_is_listed_and_nothing_more(tmp_path: Path) -> None:
    Run.create(tmp_path, "begun", about={"setting": "base", "kind": "train", "fold": 0})
    page = Reader(render(collect(find_runs([tmp_path]))))
    assert page.headings == ["No model has been judged yet", "Every setting", "How this was made"]
    assert page.row("begun")[-1] == "stopped at step 0"


def test_the_page_needs_nothing_from_outside(full_page: str) -> None:
    assert not re.search(r"https?:|//\w|\bsrc=|<link|<script|@import|url\((?!#)", full_page)


def test_no_two_elements_share_an_id(full_page: str) -> None:
    ids = Reader(full_page).ids
    assert len(ids) == len(set(ids))


def test_every_figure_says_in_words_what_it_shows(full_page: str) -> None:
    drawings = re.findall(r"<figure.*?<svg ([^>]*)>", full_page, flags=re.DOTALL)
    # 2 trade-offs, 2 error curves, differences, 3 trainings, 2 streams, damage of 2 models
    assert len(drawings) == 12
    assert all(re.search(r'role="img" aria-label="[^"]{10,}"', drawing) for drawing in drawings)


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    hostile = '<script>alert("$x^2$")</script>'
    row = (hostile, "ours", "train", [], 100, 40, 800, [1.0, 2.0])
    for fold in (0, 1):
        run = add_run(tmp_path, row, fold)
        add_everything(run)
        run.write_json("tracker.json", {"url": "javascript:alert(1)"})
        run.log("warning", step=None, message=hostile)
    page = render(collect(find_runs([tmp_path])))
    assert "<script" not in page
    assert 'href="javascript' not in page
    assert "&lt;script&gt;" in page


def test_a_tracker_s_address_is_a_link(tmp_path: Path) -> None:
    run = add_run(tmp_path, ROWS[0], 0)
    run.write_json("tracker.json", {"url": "https://tracker.example/run/1"})
    assert 'href="https://tracker.example/run/1"' in render(collect([run]))


def test_what_trackers_lost_is_told_as_it_is_by_now_with_the_way_to_replay_it(tmp_path: Path) -> None:
    run = add_run(tmp_path, ROWS[0], 0)
    run.path("trackers").mkdir()
    for step in range(1, 4):
        run.log("train", step=step, loss=1 / step)
    run.log("warning", step=None, tracker="wandb", message="wandb lost up to 77 events")
    note(run, "tensorboard", confirmed=3)
    note(run, "wandb", confirmed=1, reason="killed by SIGKILL", url="https://tracker.example/run/1")
    page = render(collect([run]))
    lost = f"wandb lost up to 2 of 3 events (killed by SIGKILL); replay with: hark track push {run.folder}"
    assert page.count(f"{lost} --to wandb") == 1
    assert "77 events" not in page, "what was said before is out of date"
    assert "has all" not in page, "what is as it should be is no warning"
    assert page.count('href="https://tracker.example/run/1"') == 1
    note(run, "wandb", confirmed=3)
    assert "lost up to" not in render(collect([run]))


def test_what_was_said_of_a_tracker_that_left_nothing_else_is_not_passed_over(tmp_path: Path) -> None:
    run = add_run(tmp_path, ROWS[0], 0)
    run.log("warning", step=None, tracker="wandb", message="nothing is mirrored to wandb")
    assert "nothing is mirrored to wandb" in render(collect([run]))


def test_a_perfect_model_can_be_drawn(tmp_path: Path) -> None:
    run = add_run(tmp_path, ("perfect", "ours", "train", [], 100, 40, 800, [0.0]), 0)
    labels = np.arange(20) < 10
    np.savez(run.path("scores.npz"), scores=labels.astype(float), labels=labels)
    assert Reader(render(collect([run]))).row("perfect")[5] == "0"


def test_the_same_runs_give_the_same_page(folder: Path, page: str) -> None:
    assert render(collect(find_runs([folder]))) == page


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    run = add_run(tmp_path, ROWS[0], 0)
    run.path("scores.npz").write_bytes(b"not an archive")
    with pytest.raises(RunError, match=r"scores\.npz: expected scores and labels"):
        collect([run])


def test_without_runs_there_is_one_line_and_no_page(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    with pytest.raises(UsageError, match="no runs found") as error:
        write_report([tmp_path], out)
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_what_is_not_installed_is_named_with_the_way_out(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r'jinja2 is missing.*pip install "hark-kws\[train\]"'):
        render(study)


def test_the_command_writes_the_page_and_says_the_result(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(folder), "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("“small, int8”: 10.0× fewer MACs")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_json_has_the_numbers_of_the_table(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(folder), "--json", "--out", str(tmp_path / "page.html")])
    rows = {(row["group"], row["setting"]): row for row in json.loads(done.stdout)["settings"]}
    row = rows["ours", "small, int8"]
    assert (row["macs_per_clip"], row["file_bytes"], row["factors"]["bytes"]) == (100, 200, 40)
    assert row["metric"] == pytest.approx([5.4, np.std([4.5, 6.3], ddof=1)])


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (1, "1.00"),
        (10.084, "10.1"),
        (1234.5, "1,234"),
        (0.000314, "0.000314"),
        (0.9999, "1.00"),
        (1.25e-7, "1.25\u00a0×\u00a010⁻⁷"),
        (-0.42, "−0.420"),
        (float("nan"), "–"),
    ],
)
def test_numbers_have_three_significant_digits(number: float, shown: str) -> None:
    assert significant(number) == shown


def test_a_spread_has_the_decimals_of_its_mean() -> None:
    assert mean_and_spread((2.345, 0.6789)) == "2.35 ± 0.68" or mean_and_spread((2.345, 0.6789)) == "2.34 ± 0.68"
    assert mean_and_spread((2.5, float("nan"))) == "2.50"


def test_counts_and_factors_are_easy_to_read() -> None:
    assert (count(933808), times(20.357), times(1.0)) == ("933,808", "20.4×", "1×")


def test_reference_sisters_and_ours_stand_on_one_picture(page: str) -> None:
    for name in ("stage 2 (printed)", "best sister report (printed)", "small, int8"):
        assert name in page
