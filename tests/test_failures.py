"""Failures of the machine: told in one line, with the exit code by which a supervisor knows what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hark.errors import DeviceLost, OutOfMemory
from hark.learning.failures import failures_told
from hark.record.runs import Run

NewRun = Callable[[str], Run]


def test_a_lost_device_is_told_with_what_was_saved(new_run: NewRun) -> None:
    run = new_run("a")
    run.checkpoints.save(30, {"model.safetensors": b"weights"}, info={})
    with pytest.raises(DeviceLost) as caught, failures_told(run):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA …")
    assert caught.value.exit_code == 75
    assert str(caught.value) == (
        f"{run.folder}: the device is lost (CUDA error: unspecified launch failure); the same command goes on "
        "from step 30, and hark supervise gives it by itself"
    )


@pytest.mark.parametrize("error", [MemoryError(), torch.AcceleratorError("CUDA error: out of memory")])
def test_memory_that_has_run_out_outside_a_step_is_told_with_what_was_needed(
    new_run: NewRun, error: Exception
) -> None:
    run = new_run("a")
    with pytest.raises(OutOfMemory) as caught, failures_told(run):
        raise error
    assert caught.value.exit_code == 6
    assert str(caught.value).startswith(f"{run.folder}: out of memory: at least ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("no"), KeyboardInterrupt()])
def test_everything_else_passes(new_run: NewRun, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, failures_told(new_run("a")):
        raise error
    assert caught.value is error
