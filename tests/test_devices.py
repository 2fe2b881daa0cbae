"""Devices: a wish is granted or refused at once, one that is not there yet can be waited for, a loss is known."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from hark.errors import ConfigError, DeviceError
from hark.learning import devices
from hark.learning.devices import can_compute, choose_device, is_loss, wait_for_device


@pytest.mark.parametrize(
    ("cuda", "mps", "wish", "chosen"),
    [
        (False, False, "auto", "cpu"),
        (True, False, "auto", "cuda"),
        (False, True, "auto", "mps"),
        (True, True, "cpu", "cpu"),
        (True, False, "cuda", "cuda"),
        (False, True, "mps", "mps"),
    ],
)
def test_auto_takes_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, wish: str, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(devices, "cuda_is_ruled_out", lambda: False)
    assert choose_device(wish) == chosen


def test_an_unknown_device_is_a_wrong_call() -> None:
    with pytest.raises(ConfigError, match="--device tpu: expected auto, cpu, cuda or mps"):
        choose_device("tpu")


@pytest.mark.parametrize("wish", ["cuda", "mps"])
def test_a_gpu_that_is_not_there_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(devices, "cuda_is_ruled_out", lambda: False)
    with pytest.raises(
        DeviceError, match=f"--device {wish}: found only the CPU; use --device auto or cpu, or wait"
    ):
        choose_device(wish)


@pytest.mark.parametrize(
    ("system", "visible", "build", "ruled_out"),
    [
        ("linux", None, "2.13.0", False),
        ("linux", "0", "2.13.0+cu129", False),
        ("linux", "", "2.13.0", True),
        ("linux", "-1", "2.13.0", True),
        ("linux", None, "2.13.0+cpu", True),
        ("darwin", "", "2.13.0", False),  # there may be mps, which the message has to name
    ],
)
def test_cuda_is_ruled_out_where_it_is_hidden_or_torch_is_built_without(
    monkeypatch: pytest.MonkeyPatch, system: str, visible: str | None, build: str, ruled_out: bool
) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr(devices, "version", lambda _: build)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.cuda_is_ruled_out() == ruled_out


@pytest.mark.fault("F20")
def test_a_device_that_cannot_be_there_is_refused_before_torch_is_loaded() -> None:
    ask = "import sys; from hark.cli.options import require_device as require\ntry: require({'device': 'cuda', "
    ask += "'wait_min': 0})\nexcept Exception as error: print(type(error).__name__, 'torch' in sys.modules)"
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, env=hidden, check=True)
    assert done.stdout == "DeviceError False\n"


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(devices, "time", SimpleNamespace(monotonic=lambda: self.now_s, sleep=self.pass_by))

    def pass_by(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize(
    ("comes_at_s", "limit_s", "waited_s"), [(0, 60, 0), (4, 60, 10), (35, 60, 40), (60, 60, 60)]
)
def test_a_device_is_asked_for_until_it_is_there(
    monkeypatch: pytest.MonkeyPatch, comes_at_s: float, limit_s: float, waited_s: float
) -> None:
    clock = Clock(monkeypatch)
    asked = []

    def probe(device: str) -> bool:
        asked.append(device)
        return clock.now_s >= 100 + comes_at_s

    monkeypatch.setattr(devices, "can_compute", probe)
    assert wait_for_device("auto", limit_s=limit_s)
    assert clock.now_s == 100 + waited_s
    assert asked == ["cuda"] * (1 + int(waited_s) // 10)


def test_a_device_that_does_not_come_is_waited_for_no_longer_than_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(devices, "can_compute", lambda device: False)
    assert not wait_for_device("mps", limit_s=145)
    assert 135 < clock.now_s - 100 <= 145
    assert capsys.readouterr().err == "waiting for mps, 2 min at most\nmps did not come within 2 min\n"


def test_nobody_waits_for_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert wait_for_device("cpu", limit_s=3600)
    assert capsys.readouterr().err == ""


def test_the_probe_computes_in_a_process_of_its_own() -> None:
    assert can_compute("cpu")
    assert not can_compute("no such device")


def test_a_probe_that_hangs_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "PROBE", "import time; time.sleep(600)")
    monkeypatch.setattr(devices, "PROBE_LIMIT_S", 0.2)
    assert not can_compute("cpu")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), True),
        (torch.AcceleratorError("the device is gone"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(…)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error"), False),
    ],
)
def test_what_means_that_a_device_is_lost(error: Exception, expected: bool) -> None:
    assert is_loss(error) == expected
