"""What a training runs on: choosing a device, waiting for one, and losing it.

torch is loaded only where it has to be asked, so that a wish that cannot be granted is refused at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version

from hark.errors import ConfigError, DeviceError
from hark.notices import say
from hark.record.status import duration

WISHES = ("auto", "cpu", "cuda", "mps")
PROBE_LIMIT_S = 60.0
PROBE_EVERY_S = 10.0
# A device that answers to its name need not be able to compute.
PROBE = "import sys, torch; torch.ones(1, device=sys.argv[1]).add(1).item()"
LOSS_SIGNS = ("CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a training runs on. Its workers change nothing of what comes out, its device the last bits."""

    device: str = "auto"
    """"auto", "cpu", "cuda" or "mps"."""
    workers: int = 0
    """Processes that make batches; 0 is a thread."""
    watchdog_s: float = 60.0
    """Seconds that a batch may take."""


ANY_MACHINE = Machine()


def choose_device(wish: str) -> str:
    """The accelerator for a wish: "auto" takes a GPU where there is one, else the CPU.

    Raises:
        DeviceError: a GPU was asked for and there is none.
        ConfigError: there are no such devices.
    """
    if wish not in WISHES:
        raise ConfigError(f"--device {wish}: expected auto, cpu, cuda or mps")
    if wish == "cpu":
        return wish
    gpu = None if wish == "cuda" and cuda_is_ruled_out() else _gpu()
    if wish == "auto":
        return gpu or "cpu"
    if wish != gpu:
        found = gpu or "the CPU"
        raise DeviceError(
            f"--device {wish}: found only {found}; use --device auto or cpu, or wait: --wait-device MINUTES"
        )
    return wish


def cuda_is_ruled_out() -> bool:
    """Whether torch need not be loaded, which takes seconds, to know that it has no CUDA here.

    On Linux, that is: what else there may be on a Mac has to be asked.
    """
    if sys.platform != "linux":
        return False
    return os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or version("torch").endswith("+cpu")


def _gpu() -> str | None:
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None


def wait_for_device(wish: str, *, limit_s: float) -> bool:
    """Wait until a GPU can compute, and say whether it can; for "auto" it is CUDA's. The CPU is always there.

    Args:
        wish: as of `choose_device`, which afterwards finds the GPU, or tells what is missing.
        limit_s: seconds to wait at most.
    """
    device = "cuda" if wish == "auto" else wish
    if device == "cpu":
        return True
    begun = time.monotonic()
    say(f"waiting for {device}, {duration(limit_s)} at most")
    while not can_compute(device):
        if time.monotonic() - begun + PROBE_EVERY_S > limit_s:
            say(f"{device} did not come within {duration(limit_s)}")
            return False
        time.sleep(PROBE_EVERY_S)
    say(f"{device} is there, after {duration(time.monotonic() - begun)}")
    return True


def can_compute(device: str) -> bool:
    """Whether a device can compute, asked in a fresh process: CUDA remembers its first failure in one."""
    command = (sys.executable, "-c", PROBE, device)
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_LIMIT_S)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def is_loss(error: BaseException) -> bool:
    """Whether an error means that the device is lost: nothing in this process can use it again."""
    import torch

    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOSS_SIGNS)
