"""Lessons: batches that are made once, with what the teachers say of them, and heard again and again.

To vary a clip, to transform it and to ask two bases what they make of it costs many times the step of a network
of a thousand weights. A book of lessons pays that once for some epochs, and for all students that hear through
the same front end; its masks alone are drawn afresh each time that a lesson is heard, and its order in each round.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from hark.errors import RunBusy, RunError
from hark.files import digest, make_folder, remove_leftovers, write_atomically
from hark.learning.batching import Batch, Batches, Taught
from hark.learning.loading import Loader
from hark.network.features import LogMel
from hark.notices import say
from hark.record.locking import held
from hark.sound.augmentation import generator

FOLDER = "lessons"
"""Beside the runs that learn from them."""
_ROUND = 1 << 45
_GLANCE_S = 0.5


@runtime_checkable
class Teachers(Protocol):
    """Those whose answers are recorded."""

    @property
    def signature(self) -> str:
        """Names them, to the last weight."""

    def teach(self, batch: Batch) -> Taught:
        """What they make of a batch."""


@dataclass(frozen=True)
class LessonBook:
    """Some epochs of batches as they came out of the front end, in a folder of one file for each epoch.

    Args:
        folder: where the book stands; it is named by what it depends on.
        batches: what is recorded.
        epochs: how many of them.
        teachers: whose answers are recorded with them.
    """

    folder: Path
    batches: Batches
    epochs: int
    teachers: Teachers | None

    @classmethod
    def of(cls, batches: Batches, epochs: int, *, teachers: Teachers | None, shelf: Path) -> LessonBook:
        """The book that holds just these lessons, written or not, among those beside the runs in `shelf`."""
        task, variation = batches.task, asdict(batches.variation)
        about = {
            "task": [task.digest, task.keyword, task.split, task.fold, task.folds],
            "variation": {name: value for name, value in variation.items() if not name.startswith("mask_")},
            "front end": asdict(batches.front_end),
            "batches": [batches.size, batches.seed],
            "teachers": teachers.signature if teachers else None,
        }
        return cls(shelf / FOLDER / digest(about)[:16], batches, epochs, teachers)

    def write(self, loader: Loader, front_end: LogMel, *, given_up: Callable[[], bool]) -> None:
        """Write what is not there yet; whoever else is writing it is waited for.

        Raises:
            RunError: it cannot be written.
        """
        while not self._is_whole() and not given_up():
            say(f"{self.folder}: {self.epochs} epochs of lessons are made, once for all who learn from them")
            make_folder(self.folder)
            with suppress(RunBusy), held(self.folder / "lock"):
                remove_leftovers(self.folder)
                for epoch in range(self.epochs):
                    if not self._file(epoch).exists() and not given_up():
                        self._write_epoch(epoch, loader.stream(*self._steps(epoch), given_up=given_up), front_end)
                return
            time.sleep(_GLANCE_S)

    def stream(self, start: int, stop: int, *, given_up: Callable[[], bool] = lambda: False) -> Iterator[Batch]:
        """The lessons of the steps `start` to `stop` of a training; it ends early where one wishes to give up."""
        for step in range(start, stop):
            if given_up():
                return
            yield self.lesson(step)

    def lesson(self, step: int) -> Batch:
        """What is heard in a step: each round through the book has an order and masks of its own.

        Raises:
            RunError: the book is damaged.
        """
        per_epoch, seed = self.batches.per_epoch, self.batches.seed
        turn, at = divmod(step, self.epochs * per_epoch)
        order = generator(seed, turn, _ROUND).permutation(self.epochs * per_epoch)
        epoch, index = divmod(int(order[at]), per_epoch)
        tensors = _read(self._file(epoch), index)
        masks = torch.from_numpy(self.batches.masks(step, len(tensors["targets"])))
        return Batch(
            waveforms=torch.empty(len(masks), 0),
            targets=tensors["targets"],
            masks=masks,
            past_frames=tensors["log_mels"].shape[-1] - masks.shape[-1],
            heard=tensors["log_mels"].float(),
            taught=_taught(tensors),
        )

    def _is_whole(self) -> bool:
        return all(self._file(epoch).exists() for epoch in range(self.epochs))

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:03d}.safetensors"

    def _steps(self, epoch: int) -> tuple[int, int]:
        return epoch * self.batches.per_epoch, (epoch + 1) * self.batches.per_epoch

    def _write_epoch(self, epoch: int, batches: Iterator[Batch], front_end: LogMel) -> None:
        """Write the batches of an epoch, unless they break off."""
        tensors: dict[str, Tensor] = {}
        written = 0
        for batch in batches:
            batch.masks = torch.zeros_like(batch.masks)  # drawn when the lesson is heard; teachers hear all
            columns = {"log_mels": batch.log_mels(front_end).half(), "targets": batch.targets}
            if self.teachers:
                taught = self.teachers.teach(batch)
                columns["logits"] = taught.logits
                columns |= {f"attention.{number}": weights for number, weights in enumerate(taught.attention)}
            tensors |= {f"{written}.{name}": column.cpu().contiguous() for name, column in columns.items()}
            written += 1
        if written == self.batches.per_epoch:
            content = save(tensors)
            write_atomically(_seal(self._file(epoch)), hashlib.sha256(content).hexdigest().encode())
            write_atomically(self._file(epoch), content)


def _taught(tensors: dict[str, Tensor]) -> Taught | None:
    if "logits" not in tensors:
        return None
    count = sum(name.startswith("attention.") for name in tensors)
    return Taught(tensors["logits"], tuple(tensors[f"attention.{number}"] for number in range(count)))


def _seal(file: Path) -> Path:
    return file.with_suffix(".sha256")


def _read(file: Path, index: int) -> dict[str, Tensor]:
    """The tensors of one batch, by name."""
    content, prefix = _opened(file), f"{index}."
    return {
        name.removeprefix(prefix): content.get_tensor(name)
        for name in content.keys()  # noqa: SIM118 (it is no mapping)
        if name.startswith(prefix)
    }


@cache
def _opened(file: Path) -> Any:
    """A `safe_open` file that equals its seal, looked at once in a process.

    Safetensors take a flipped bit without a word.

    Raises:
        RunError: it does not, or cannot be read.
    """
    try:
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        sealed = _seal(file).read_text()
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror}); the same command makes it again") from error
    if found != sealed:
        raise RunError(f"{file}: is damaged; delete it, and the same command makes it again")
    return safe_open(file, "pt")
