"""A run's JSON files are believed where they hold what is asked of them, and named where they do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hark.errors import RunError
from hark.record.runs import ABOUT, Run
from hark.showing.run_files import read_believable

NewRun = Callable[[str], Run]

LAYER = {"name": "conv", "rhythm": "step", "thop": 9, "macs": 9, "parameters": 9, "bytes": 9}
COSTS: dict[str, Any] = {
    "macs_per_clip_thop": 9,
    "macs_per_second": 9.5,
    "frontend_macs_per_second": 9,
    "parameters": 9,
    "file_bytes": 9,
    "latency_ms": 80.0,
    "layers": [LAYER],
}
STREAM = {"hours": 0.5, "words": 9, "misses_reset": 1, "misses_carried": 2, "alarms": 3}
CHECKED: dict[str, Any] = {
    "chunks": [{"chunk_frames": 1, "largest_difference": 0.0}],
    "times_s": [0.2],
    "posteriors": [0.1],
    "borders_s": [0.0, 1.0],
    "labels": ["happy"],
    "word": [0.0, 1.0],
}


def test_what_the_runs_of_a_recipe_leave_behind_is_believed(mini_runs: Path) -> None:
    read = 0
    for folder in (path for path in mini_runs.iterdir() if (path / ABOUT).exists()):
        run = Run.open(folder)
        for path in folder.glob("*.json"):
            if path.name not in ("config.json", "command.json", "tracker.json"):
                assert read_believable(run, path.name) == run.read_json(path.name)
                read += 1
    assert read > 20


def test_a_file_that_is_not_there_is_none(new_run: NewRun) -> None:
    assert read_believable(new_run("a"), "stream.json") is None


def test_a_file_may_say_more_than_is_asked(new_run: NewRun) -> None:
    run = new_run("a")
    more = {**COSTS, "watts": 3, "layers": [{**LAYER, "colour": "red"}]}
    run.write_json("cost.json", more)
    assert read_believable(run, "cost.json") == more


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", {"fold": 0}, "run.json: no name, expected text"),
        ("run.json", {"name": "a", "fold": "0"}, "run.json.fold is '0', expected a whole number"),
        ("run.json", {"name": "a", "parents": [1]}, "run.json.parents.0 is 1, expected text"),
        ("environment.json", {"packages": []}, "environment.json.packages is [], expected a table"),
        ("task.json", {"keyword": "x", "clips": 1, "positives": 1}, "task.json: no speakers, expected"),
        ("cost.json", {**COSTS, "parameters": 0}, "parameters is 0, expected more than 0"),
        ("cost.json", {**COSTS, "layers": [{**LAYER, "rhythm": "daily"}]}, "rhythm is 'daily', expected frame"),
        ("evaluation.json", {"one_minus_auc": "nan"}, "one_minus_auc is 'nan', expected a number"),
        ("stream.json", {**STREAM, "hours": 0}, "expected more than 0 hours, and no count below 0"),
        ("stream.json", {**STREAM, "alarms": -1}, "expected more than 0 hours, and no count below 0"),
        ("check_stream.json", {**CHECKED, "times_s": []}, "expected a time for each posterior"),
        ("check_stream.json", {**CHECKED, "labels": []}, "a border around each label"),
        ("pruning_damage.json", {"shares": [0.1], "row_wise": [], "unit_wise": []}, "a figure of each kind"),
    ],
)  # fmt: skip
def test_what_is_missing_or_of_another_type_is_named(
    name: str, content: dict[str, Any], said: str, new_run: NewRun
) -> None:
    run = new_run("a")
    run.path(name).write_text(json.dumps(content))
    with pytest.raises(RunError) as caught:
        read_believable(run, name)
    assert str(caught.value).startswith(f"{run.folder}: ")
    assert said in str(caught.value)
    assert str(caught.value).endswith("; put a good copy back, or make the run again")
