"""`hark verify`: every kind of artefact, the table, the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from contract import SMALL, spotter
from hark.cli.verify import verify
from hark.errors import VerificationError
from hark.network.spotter import Spotter
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_layers import FloatMatrix, Linear
from hark.record.runs import MODEL_FILE, PACKED_FILE
from hark.shipping.model_packing import pack
from hark.storage.model_files import to_bytes

SLOW = LogMelConfig(sample_rate=1_000, n_fft=64, hop_length=50, n_mels=8)


def model() -> Spotter:
    return spotter(SMALL, features=SLOW)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, as far as its models go."""
    (tmp_path / MODEL_FILE).write_bytes(to_bytes(model()))
    (tmp_path / PACKED_FILE).write_bytes(packing.to_bytes(pack(model())))
    return tmp_path


def spoil(file: Path) -> None:
    """Make the weights of the last layer a tenth larger."""
    values = packing.from_bytes(file.read_bytes())
    matrix = values.layers[-1].matrix  # type: ignore[union-attr]
    larger = Linear(FloatMatrix(np.float32(1.1) * matrix.weights, matrix.bias))
    file.write_bytes(packing.to_bytes(replace(values, layers=(*values.layers[:-1], larger))))


def verified(*arguments: Path | str) -> Result:
    return CliRunner().invoke(verify, [*map(str, arguments), "--seconds", "10"])


def test_a_run_is_verified_with_the_file_that_it_ships(run: Path) -> None:
    result = verified(run)
    assert result.exit_code == 0, result.output
    header, *rows = result.output.splitlines()
    assert header.split() == ["compared", "steps", "difference", "allowed", "differs", "at"]
    assert len(rows) == 12
    assert all(row.endswith("  ok") for row in rows)
    assert rows[-2].startswith("engine against torch ")


@pytest.mark.parametrize(("file", "checks"), [(MODEL_FILE, 4), (PACKED_FILE, 6)])
def test_a_file_alone_is_held_to_the_laws_of_its_kind(run: Path, file: str, checks: int) -> None:
    report = json.loads(verified(run / file, "--json").output)
    assert report["artefact"] == str(run / file)
    assert report["passed"]
    assert len(report["checks"]) == checks


def test_two_forms_of_a_model_are_compared(run: Path) -> None:
    result = verified(run / PACKED_FILE, "--against", run / MODEL_FILE)
    assert result.exit_code == 0
    assert result.output.splitlines()[-1].startswith("engine against torch")


def test_what_fails_is_in_the_table_and_in_one_line_after_it(run: Path) -> None:
    spoil(run / PACKED_FILE)
    result = verified(run)
    assert isinstance(result.exception, VerificationError)
    failed = [row for row in result.output.splitlines() if row.endswith("failed")]
    assert [row[:22] for row in failed] == ["engine against torch  ", "engine against torch’s"]
    assert "2 of 12 checks failed, the first: engine against torch: " in str(result.exception)


def test_what_fails_is_told_to_machines_too(run: Path) -> None:
    spoil(run / PACKED_FILE)
    result = verified(run / PACKED_FILE, "--against", run / MODEL_FILE, "--json")
    assert isinstance(result.exception, VerificationError)
    report = json.loads(result.output)
    assert [check["passed"] for check in report["checks"]] == [True] * 6 + [False]
    assert not report["passed"]


def test_an_engine_s_file_is_verified_where_there_is_no_torch_and_exits_with_1_where_it_fails(run: Path) -> None:
    other = run / "other.hark"
    other.write_bytes((run / PACKED_FILE).read_bytes())
    spoil(other)
    code = "import sys; sys.modules['torch'] = None; from hark.cli import main; main()"
    command = [sys.executable, "-c", code, "verify", str(run / PACKED_FILE), "--seconds", "10"]
    done, failed = (
        subprocess.run([*command, *more], capture_output=True, text=True, timeout=120)
        for more in ([], ["--against", str(other)])
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert failed.stderr.startswith(f"hark: {run / PACKED_FILE}: 1 of 7 checks failed")
