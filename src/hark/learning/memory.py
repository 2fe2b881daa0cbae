"""When memory runs out: a batch goes through in parts, and what is learned from it stays the same."""

from __future__ import annotations

import gc
import math
import os
import re
import resource
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hark.errors import OutOfMemory
from hark.learning.batching import Batch
from hark.learning.trainee import Trainee
from hark.record.progress import Progress
from hark.resources import memory

WAY_OUT = "free some memory or raise the limit, and give the same command again"
# PyTorch has a type of its own only for the allocator of a GPU; oneDNN does not even say what it lacked.
_SIGNS = re.compile(
    "out of memory|can't allocate memory|bad_alloc|ALLOC_FAILED|could not (create|execute) a (primitive|memory)$"
)
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB)", re.IGNORECASE)
_PAGE = os.sysconf("SC_PAGE_SIZE")
_UNITS = {"bytes": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


class Gradients:
    """Computes the gradients of batches: of a whole one at once, or in parts if that does not fit in memory.

    When memory runs out, parts of half as many clips are tried, for this batch and all that follow; a run
    that is resumed goes on with them. Each part counts by its share of the clips, so that the gradients add
    up to those of the mean over the batch, and dropout hides what it would have hidden in the whole. What is
    not the same is the order of the sums, and so the last bits.

    Args:
        fabric: moves batches to its device, and goes backward.
        lesson: gives a batch's loss, a mean over its clips.
        trainee: its steps say when memory ran out.
        progress: of its training.
    """

    def __init__(self, fabric: Fabric, lesson: nn.Module, trainee: Trainee, progress: Progress) -> None:
        self.fabric = fabric
        self.lesson = lesson
        self.trainee = trainee
        self.progress = progress
        halvings = [event for event in progress.run.events() if event["kind"] == "micro_batch"]
        self._most_clips: int | None = halvings[-1]["clips"] if halvings else None

    def compute(self, batch: Batch) -> Tensor:
        """Leave the gradients of a batch's loss in the parameters; return the loss.

        Raises:
            OutOfMemory: a single clip does not fit.
        """
        while (loss := self._try(batch)) is None:
            gc.collect()
            torch.cuda.empty_cache()  # does nothing where no GPU is in use
        return loss

    def _try(self, batch: Batch) -> Tensor | None:
        """The loss, or None if memory ran out: then all that was computed goes with this call."""
        clips = min(self._most_clips or len(batch), len(batch))
        self.lesson.zero_grad()
        try:
            return self._in_parts(batch, clips)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            found = shortage(error)
            if clips == 1:
                raise OutOfMemory(f"a batch of one clip does not fit: {found}; {WAY_OUT}") from error
        self._most_clips = math.ceil(clips / 2)
        self.progress.run.log("micro_batch", step=self.trainee.step, clips=self._most_clips)
        self.progress.warn(f"{found}; from here on {self._most_clips} clips at a time, for the same result")
        return None

    def _in_parts(self, batch: Batch, clips: int) -> Tensor:
        parts = batch.split(clips)
        losses = []
        for number, part in enumerate(parts):
            with _DropoutOfWhole(len(batch), first=number * clips) if len(parts) > 1 else nullcontext():
                loss = self.lesson(part.to(self.fabric.device)) * (len(part) / len(batch))
                self.fabric.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()


class _DropoutOfWhole(TorchFunctionMode):
    """Within it, the dropout of a part of a batch is a part of the whole batch's, from the same random numbers."""

    def __init__(self, clips: int, *, first: int) -> None:
        super().__init__()
        self.clips = clips
        self.first = first

    def __enter__(self) -> _DropoutOfWhole:
        torch.manual_seed(torch.initial_seed())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not functional.dropout:
            return func(*args, **(kwargs or {}))
        part: Tensor = args[0]
        kept = functional.dropout(part.new_ones(self.clips, *part.shape[1:]), *args[1:], **(kwargs or {}))
        return part * kept[self.first : self.first + len(part)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or PyTorch, on whatever device, means that memory has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _SIGNS.search(str(error)) is not None


def shortage(error: BaseException) -> str:
    """What was needed and what there is, in words; asked where the error is caught, when all is still held."""
    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_available():
        used, limit, whose = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1], "the GPU has"
    elif (allowed := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        used, limit, whose = _used(0), allowed, "ulimit -v allows"
    else:
        there = memory()
        used, limit, whose = _used(1), there.limit or there.total or 0, "this process may use"
    found = _ASKED.search(str(error))
    asked = float(found[1]) * _UNITS[found[2].lower()] if found else 0.0
    more = f", {_mib(asked)} of it at once" if asked else ""
    return f"out of memory: at least {_mib(used + asked)} are needed{more}, and {whose} {_mib(limit)}"


def _used(column: int) -> int:
    """Bytes of this process by a column of `statm`: 0 is its address space, 1 what it has in memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[column]) * _PAGE
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _mib(size: float) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
