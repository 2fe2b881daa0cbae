"""What fails of the machine itself, told as hark tells of errors: in a line, with an exit code of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hark.errors import DeviceLost, OutOfMemory
from hark.learning.devices import is_loss
from hark.learning.memory import WAY_OUT, is_out_of_memory, shortage
from hark.record.runs import Run


@contextmanager
def failures_told(run: Run) -> Iterator[None]:
    """For work in a run: what Python and PyTorch raise when memory or a device is gone becomes ours.

    Raises:
        OutOfMemory: memory has run out.
        DeviceLost: the device is gone, which no process can mend that has used it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{run.folder}: {shortage(error)}; {WAY_OUT}") from error
        if is_loss(error):
            reason = str(error).partition("\n")[0]
            saved = max(run.checkpoints.steps(), default=0)
            way_on = f"the same command goes on from step {saved}, and hark supervise gives it by itself"
            raise DeviceLost(f"{run.folder}: the device is lost ({reason}); {way_on}") from error
        raise
