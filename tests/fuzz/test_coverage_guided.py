"""F11, the longer tier: benchmarks/fuzz.py lets atheris look for inputs that reach new code, parser by parser."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from parsers import PARSERS

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"
SECONDS = 5


@pytest.mark.chaos
@pytest.mark.fault("F11")
def test_no_input_that_reaches_new_code_breaks_a_parser(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    pytest.importorskip("atheris", reason='atheris is not installed; pip install "hark-kws[fuzz]"')
    found = tmp_path / "fuzz.jsonl"
    command = [sys.executable, str(FUZZ), "--seconds", str(SECONDS), "--results", str(found)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    rows = [json.loads(line) for line in found.read_text().splitlines()]
    assert {row["target"] for row in rows} == PARSERS.keys()
    assert all(row["executions"] > 0 and row["features"] > 0 for row in rows)
    executions = sum(row["executions"] for row in rows)
    failures = sum(bool(row["failure"]) for row in rows)
    record_property(
        "outcome",
        f"{executions:,} executions of {len(rows)} parsers, guided by coverage for {SECONDS} s each: "
        f"{failures} failures",
    )
