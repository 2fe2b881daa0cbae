"""A recipe over folds: in processes of their own, with the same result as in one."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hark.dataset import Source
from hark.errors import UsageError
from hark.models.crnn import CrnnConfig
from hark.recipes import parse_recipe
from hark.reproduction import Plan, reproduce, run_fold
from hark.runs import Run


@pytest.fixture
def plan(tiny_source: Source, tiny_network: CrnnConfig, tmp_path: Path) -> Plan:
    """One short training that nobody judges."""
    stage = {"kind": "train", "network": asdict(tiny_network)}
    values = {"training": {"epochs": 1, "batch_size": 16, "validations": 1}, "stages": {"base": stage}}
    return Plan(recipe=parse_recipe(values, name="one"), source=tiny_source, out=tmp_path / "runs", device="cpu")


def test_folds_in_processes_of_their_own_give_what_one_process_gives(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the error of one fold is raised here, when the others are done."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # one thread for each, as in these tests
    with pytest.raises(UsageError, match="fold 9: expected 0 to 1"):
        reproduce(plan, folds=(0, 1, 9), jobs=2)
    here = replace(plan, out=tmp_path / "here")
    models = set()
    for fold in (0, 1):
        run_fold(here, fold)
        runs = [Run.open(each.fold_folder(fold) / "base") for each in (plan, here)]
        assert all(run.is_finished and run.about["fold"] == fold for run in runs)
        first, second = (run.path("model.safetensors").read_bytes() for run in runs)
        assert first == second
        models.add(first)
    assert len(models) == 2


def test_folds_one_by_one_stop_at_the_first_error(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(UsageError, match="fold 7: expected 0 to 1"):
        reproduce(plan, folds=(0, 7, 1), jobs=1)
    assert Run.open(plan.fold_folder(0) / "base").is_finished
    assert not plan.fold_folder(1).exists()


def test_runs_lie_by_recipe_and_fold(plan: Plan) -> None:
    assert plan.fold_folder(3) == plan.out / "one" / "fold-3"
