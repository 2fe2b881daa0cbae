"""Spotters at work: a `.hark` file on the C engine, and what every runner has in common.

    model = hark.Model("word.hark")
    stream = model.stream()
    posteriors = stream.step(chunk)  # int16 or float32, any number of samples; (steps, classes)

torch is not needed. Bits are the same on every machine and for every chunking.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hark.errors import ModelError, ModelFileError
from hark.judging.detection import Detector, OperatingPoint
from hark.models.shelf import find
from hark.packed import packing

if TYPE_CHECKING:
    from hark import _engine

Sound: TypeAlias = NDArray[np.int16] | NDArray[np.float32]
"""`(samples,)`: int16, or float32 in ±1. A float that is not a number, or beyond ±2^20, counts as 0."""
Floats: TypeAlias = NDArray[np.float32]

LARGEST_FILE = packing.LARGEST_BYTES + packing.LARGEST_METADATA + 4

OPENED_BYTES, LAYER_BYTES = 92, 80
"""Of an opened model on a device of 32 bits, and of each of its layers."""
STACK_BYTES = 600
"""Of a step, deepest on a Cortex-M4 as gcc 12 -Os counts it; no model needs more."""


@dataclass(frozen=True)
class DeviceMemory:
    """RAM that one stream takes on a device, in bytes: the file itself stays in flash."""

    state: int
    """Computed by the engine without vectors; where pointers have 32 bits it may be some bytes less."""
    scratch: int
    """As the state; free between two calls."""
    opened_model: int
    """Computed, with room for no more layers than the model has."""
    stack: int = STACK_BYTES
    """Measured."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.scratch + self.opened_model + self.stack


class Stream(Protocol):
    """One stream of sound through a spotter: its state, and nothing that other streams share."""

    def step(self, sound: Sound, /) -> Floats:
        """Hears more sound, any number of samples; gives the posteriors `(steps, classes)` it completes."""

    def step_logits(self, sound: Sound, /) -> Floats:
        """As `step`, but gives the logits, which do not saturate."""

    def reset(self) -> None:
        """Begins anew, as if nothing had been heard."""


class Runner(Protocol):
    """What runs a spotter, be it torch, ONNX or the engine: all are judged through this alone."""

    @property
    def labels(self) -> tuple[str, ...]:
        """One for each class; the empty one stands for everything else."""

    @property
    def sample_rate(self) -> int:
        """Hz."""

    @property
    def step_samples(self) -> int:
        """Samples of sound between two steps."""

    @property
    def first_step_samples(self) -> int:
        """Samples of sound before the first step."""

    def stream(self) -> Stream:
        """A stream that has heard nothing."""


def detector_for(runner: Runner, point: OperatingPoint) -> Detector:
    """What turns a runner's posteriors into detections, its clock that of the runner's steps."""
    return Detector(
        point,
        hop_samples=runner.step_samples,
        first_step_samples=runner.first_step_samples,
        sample_rate=runner.sample_rate,
    )


class Model:
    """A `.hark` file, opened and checked: any number of streams and threads may share it.

    `stream()` gives one stream; `streams(count)` gives that many side by side, whose sound is
    `(streams, samples)` and whose results are `(streams, steps, classes)`: less time for each. A stream is
    for one thread at a time and says so when two step it at once; the GIL is free while the engine works.
    """

    def __init__(self, source: str | Path | bytes) -> None:
        """Open a file, by its path or by the name under which it comes with hark; or its bytes.

        Raises:
            ModelFileError: it cannot be read, is damaged, or is no model.
        """
        self.file = (
            source if isinstance(source, bytes) else _read(find(source) if isinstance(source, str) else source)
        )
        try:
            self._engine = _open(self.file)
            about = self._engine.describe()
        except ValueError as error:
            raise ModelFileError(f"{_name(source)}: {_reason(self.file, error)}") from None
        self.labels: tuple[str, ...] = about["labels"]
        self.sample_rate: int = about["sample_rate"]
        self.step_samples: int = about["step_samples"]
        self.first_step_samples: int = about["first_step_samples"]
        self.is_integer: bool = about["is_integer"]
        self.state_bytes: int = about["state_bytes"]
        """Memory of one stream, on this machine."""
        self.operating_point = _operating_point(about)

    def stream(self) -> _engine.Stream:
        """A stream that has heard nothing."""
        return self._engine.stream()

    def streams(self, count: int) -> _engine.Streams:
        """So many streams side by side, which have heard nothing.

        Raises:
            UsageError: count is below 1.
        """
        return self._engine.streams(count)

    @property
    def device_memory(self) -> DeviceMemory:
        """What one stream takes on a device of 32 bits without vectors, such as a Cortex-M4."""
        device, packed = self._engine.describe_device(), packing.from_bytes(self.file)
        kept_samples = -(-packed.front_end.n_fft // 4) * 4
        return DeviceMemory(
            state=device["state_bytes"] - 2 * kept_samples,  # which are int16 there, and float32 here
            scratch=device["scratch_bytes"],
            opened_model=OPENED_BYTES + LAYER_BYTES * len(packed.layers),
        )

    def detector(self) -> Detector:
        """What turns this model's posteriors into detections, at the operating point in the file.

        Raises:
            ModelError: the file has none.
        """
        if self.operating_point is None:
            raise ModelError(
                "the model has no operating point, expected one in the file; choose a threshold yourself"
            )
        return detector_for(self, self.operating_point)

    def __reduce__(self) -> tuple[type[Model], tuple[bytes]]:
        """A model goes to another process as its file."""
        return Model, (self.file,)


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ModelFileError(f"{path}: not a file; give the path of a .hark file")
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise ModelFileError(f"{path}: {size:,} bytes, expected at most {LARGEST_FILE:,}; it is no .hark file")
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror}; give the path of a .hark file") from error


def _open(file: bytes) -> _engine.Model:
    try:
        from hark import _engine
    except ImportError as error:
        message = f"hark's engine is not built ({error}); install hark where there is a C compiler"
        raise ModelError(message) from None
    return _engine.Model(file)


def _name(source: str | Path | bytes) -> str:
    return f"a model of {len(source):,} bytes" if isinstance(source, bytes) else str(source)


def _reason(file: bytes, error: ValueError) -> str:
    """What the engine's code means, in the words of the reader in Python."""
    try:
        packing.from_bytes(file)
    except ModelFileError as reason:
        return str(reason)
    return f"the engine refuses it (error {error} of hark.h), although the file is valid; please report this"


def _operating_point(about: dict[str, float]) -> OperatingPoint | None:
    if not about["smoothing_steps"]:
        return None
    return OperatingPoint(about["threshold"], int(about["smoothing_steps"]), about["refractory_ms"] / 1000)
