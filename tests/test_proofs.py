from __future__ import annotations

from pathlib import Path

import pytest

from hark.errors import RunError
from hark.record.runs import find_runs
from hark.showing.proofs import proofs_of
from hark.showing.study import Study, collect
from test_report import ROWS, add_run, verification


def study_of(folder: Path, differences: list[float]) -> Study:
    for fold, difference in enumerate(differences):
        add_run(folder, ROWS[0], fold).write_json("verification.json", verification(difference).as_dict())
    return collect(find_runs([folder]))


def test_the_worst_of_all_runs_counts(tmp_path: Path) -> None:
    proofs = proofs_of(study_of(tmp_path, [2e-7, 0.25]).settings)
    assert proofs.names == ("torch, chunks", "engine, chunks")
    (row,) = proofs.rows.values()
    law, exact = row.values()
    assert (law.runs, law.failed, law.largest_difference, law.allowed) == (2, 1, 0.25, 1e-5)
    assert (exact.runs, exact.failed, exact.largest_difference) == (2, 0, 0.0)
    assert (proofs.checks, proofs.failed) == (4, 1)


def test_a_setting_that_was_not_verified_has_no_row(tmp_path: Path) -> None:
    add_run(tmp_path, ROWS[1], 0)
    assert not proofs_of(collect(find_runs([tmp_path])).settings).rows


def test_an_infinite_difference_is_a_failure_that_can_be_read(tmp_path: Path) -> None:
    assert proofs_of(study_of(tmp_path, [float("inf")]).settings).failed == 1


def test_a_verdict_is_computed_again_and_not_believed(tmp_path: Path) -> None:
    run = add_run(tmp_path, ROWS[0], 0)
    told = verification(0.5).as_dict()
    run.write_json(
        "verification.json", {**told, "passed": True, "checks": [{**c, "passed": True} for c in told["checks"]]}
    )
    assert proofs_of(collect([run]).settings).failed == 1


def test_a_damaged_verification_is_named(tmp_path: Path) -> None:
    run = add_run(tmp_path, ROWS[0], 0)
    run.write_json("verification.json", {"artefact": "torch", "checks": [{"name": "torch, chunks"}]})
    with pytest.raises(RunError, match=r"verification\.json.*no compared"):
        collect([run])
