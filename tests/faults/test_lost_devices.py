"""No GPU, one that comes later, one that goes away in the midst of a training: told at once, and gone on from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hark_processes import Parent, start_fresh

from hark.learning import devices
from hark.learning.dataset import Source
from hark.learning.devices import wait_for_device
from hark.record.runs import Run

Record = Callable[[str, object], None]

RECIPE = """
[training]
epochs = 20
batch_size = 16
learning_rate = 0.02
validations = 1

[stages.base]
kind = "train"
network = {channels = 2, kernel = [5, 20], stride = [4, 16], hidden = [6, 6], dropout = 0.2}
"""
STEPS = 60
LOSS_AT = 30
# Where the file is not there yet, the device is lost before the step after the thirtieth, and the file made.
LOSE_DEVICE = """
import torch
from pathlib import Path
from hark.learning.memory import Gradients

lost, compute = Path({lost!r}), Gradients.compute

def lose(self, batch):
    if self.trainee.step == {step} and not lost.exists():
        lost.touch()
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\\nSearch for …")
    return compute(self, batch)

Gradients.compute = lose
"""


@pytest.fixture
def arguments(tiny_source: Source, tmp_path: Path) -> list[object]:
    """A training of sixty steps; only device and output are missing."""
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE)
    corpus = ["--data", tiny_source.root, "--keyword", "beep", "--folds", 2, "--speech", tiny_source.speech]
    return ["train", recipe, *corpus]


@pytest.fixture
def lose_device(tmp_path: Path) -> str:
    """What loses the device of the first training in whose process it is run."""
    return LOSE_DEVICE.format(lost=str(tmp_path / "lost"), step=LOSS_AT)


def run_in(out: Path) -> Run:
    return Run(out / "r" / "fold-0" / "base")


def model_hash(out: Path) -> str:
    return hashlib.sha256(run_in(out).path("model.safetensors").read_bytes()).hexdigest()


@pytest.mark.fault("F20")
def test_a_gpu_that_is_not_there_is_told_before_anything_else(
    arguments: list[object], tmp_path: Path, record_property: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    log = tmp_path / "output.log"
    begun = time.monotonic()
    code = start_fresh([*arguments, "--device", "cuda", "--out", tmp_path / "out"], log).wait(120)
    took_s = time.monotonic() - begun
    (line,) = log.read_text().splitlines()
    record_property(
        "outcome", f"--device cuda: exit {code} after {took_s:.1f} s, in one line, and no run is begun"
    )
    assert code == 7
    assert line.startswith("hark: --device cuda: found only the CPU; use --device auto or cpu, or wait")
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("F20")
def test_auto_takes_the_cpu_and_says_so_and_how_long_it_takes(
    parent: Parent, arguments: list[object], tmp_path: Path, record_property: Record
) -> None:
    log = tmp_path / "output.log"
    without = "import torch\ntorch.cuda.is_available = torch.backends.mps.is_available = lambda: False"
    code = parent([*arguments, "--device", "auto", "--out", tmp_path / "out"], log, before=without).wait(120)
    lines = log.read_text().splitlines()
    (banner,) = [line for line in lines if "there is no GPU" in line]
    expected = next(line for line in lines if line.endswith(" left"))
    record_property("outcome", f"--device auto: exit {code}; told: {banner!r}, then {expected!r}")
    assert code == 0
    assert "step 50/60" in expected


@pytest.mark.fault("F20")
def test_a_gpu_that_comes_after_four_seconds_is_waited_for(
    record_property: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe is a program of its own each time, as the real one."""
    begun = time.monotonic()
    monkeypatch.setattr(devices, "PROBE", f"import sys, time; sys.exit(time.monotonic() < {begun + 4.0})")
    monkeypatch.setattr(devices, "PROBE_EVERY_S", 0.25)
    assert wait_for_device("cuda", limit_s=60)
    waited_s = time.monotonic() - begun
    record_property("outcome", f"a probe that succeeds after 4 s: found after {waited_s:.1f} s")
    assert waited_s >= 4


@pytest.mark.fault("F21")
def test_a_gpu_that_goes_away_costs_nothing_that_was_saved(
    parent: Parent, arguments: list[object], tmp_path: Path, record_property: Record, lose_device: str
) -> None:
    log, command = tmp_path / "output.log", [*arguments, "--device", "cpu"]
    assert parent([*command, "--out", tmp_path / "undisturbed"], log).wait(120) == 0
    code = parent([*command, "--out", tmp_path / "out"], log, before=lose_device).wait(120)
    error = log.read_text().splitlines()[-1]
    saved = run_in(tmp_path / "out").checkpoints.steps()[-1]
    assert parent([*command, "--out", tmp_path / "out"], log).wait(120) == 0
    same = model_hash(tmp_path / "out") == model_hash(tmp_path / "undisturbed")
    record_property(
        "outcome",
        f"lost in step {LOSS_AT + 1}: exit {code}, {saved} steps are saved; the same command ends with "
        f"{'the' if same else 'another'} SHA-256 {'of' if same else 'than'} an undisturbed run",
    )
    assert code == 75
    assert "the device is lost (CUDA error: unspecified launch failure); the same command goes on from" in error
    assert f"from step {saved}, and hark supervise" in error
    assert same


@pytest.mark.fault("F21")
@pytest.mark.chaos
def test_a_supervised_training_goes_on_by_itself_after_its_gpu_has_gone(
    arguments: list[object],
    tmp_path: Path,
    record_property: Record,
    lose_device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loss is staged by a module that Python loads at every start."""
    log, command = tmp_path / "output.log", [*arguments, "--device", "auto"]
    assert start_fresh([*command, "--out", tmp_path / "undisturbed"], log).wait(300) == 0
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(lose_device)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    begun = log.stat().st_size
    supervised = ["supervise", "--allow-cpu", *command, "--out", tmp_path / "out"]
    code = start_fresh(supervised, log).wait(300)
    with log.open() as file:
        file.seek(begun)
        told = [line for line in file.read().splitlines() if line.startswith("supervise: ")]
    resumed = [event["step"] for event in run_in(tmp_path / "out").events() if event["kind"] == "resumed"]
    record_property(
        "outcome",
        f"hark supervise --allow-cpu: {len(told)} restart, which goes on from step {resumed[0]} of {STEPS}; exit "
        f"{code}, same SHA-256: {model_hash(tmp_path / 'out') == model_hash(tmp_path / 'undisturbed')}",
    )
    assert code == 0
    assert len(told) == 1
    assert told[0].startswith("supervise: exit code 75, which asks for another try; restart 1 of 5 in ")
    assert model_hash(tmp_path / "out") == model_hash(tmp_path / "undisturbed")
