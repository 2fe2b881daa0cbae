"""ONNX graphs of ours at work, on onnxruntime and without torch: a runner for sound in chunks of any length.

A graph's shapes are fixed, so sound waits here until a chunk of the graph's own length is full. A graph computes
what it likes: what is checked is that it has the facts and the shapes of one of ours, and reads no other file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from hark.configuration import build, known
from hark.errors import ConfigError, ModelError, ModelFileError, UsageError
from hark.packed import float32_math
from hark.packed.front_end import clean_samples
from hark.runtime import Floats, Sound

Input: TypeAlias = Literal["waveform", "features"]
State: TypeAlias = Mapping[str, np.ndarray[Any, Any]]

TOLERANCE = 1e-4
"""Largest difference of a logit that counts as parity; float32 alone makes about 5e-7."""
LARGEST_BYTES = 64 << 20
LARGEST_STATE = 1 << 22
"""Numbers."""
PREFIX = "hark."
"""Of the facts in a graph's metadata."""
_DTYPES: dict[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """What a graph's metadata says of it, each under its name as JSON."""

    labels: tuple[str, ...]
    takes: Input
    sample_rate: int
    step_samples: int
    first_step_samples: int

    def __post_init__(self) -> None:
        for name in ("sample_rate", "step_samples", "first_step_samples"):
            if not 1 <= getattr(self, name) <= 1 << 30:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 1 to 2^30")


class OnnxGraph:
    """A graph of ours, opened: `step(chunk, state) -> (logits, state)`, a chunk of its own shape at a time."""

    def __init__(self, source: str | Path | bytes) -> None:
        """Open a file, or its bytes.

        Raises:
            UsageError: the extra `onnx` is not installed.
            ModelFileError: it cannot be read, is no ONNX graph, or none of ours.
        """
        file = source if isinstance(source, bytes) else _read(Path(source))
        name = f"a graph of {len(file):,} bytes" if isinstance(source, bytes) else str(source)
        try:
            self.facts = _facts(file)
            self._session = _session(file)
            self.chunk_shape, self._blank = _shapes(self._session, self.facts)
        except (ValueError, ConfigError) as error:
            raise ModelFileError(f"{name}: {error}; expected a graph that hark has exported") from error

    def initial_state(self) -> State:
        """The state of a stream that has heard nothing: zeros."""
        return self._blank

    def step(self, chunk: Floats, state: State) -> tuple[Floats, State]:
        """A chunk of `chunk_shape` to the logits `(1, classes, steps)` that are valid, and the next state.

        Raises:
            ModelError: the graph fails at it.
        """
        try:
            logits, valid, *after = self._session.run(None, {"chunk": chunk, **state})
        except Exception as error:  # onnxruntime's errors have nothing else in common
            raise ModelError(f"onnxruntime fails to run the graph: {_brief(error)}; export it again") from error
        return np.asarray(logits[..., valid]), dict(zip(state, after, strict=True))


class OnnxRunner:
    """A graph that takes a waveform. A `hark.runtime.Runner`.

    A step comes when the chunk that completes it is full, at the latest `chunk_samples` after its sound.
    """

    def __init__(self, source: str | Path | bytes) -> None:
        """Open a file, or its bytes.

        Raises:
            UsageError: the extra `onnx` is not installed, or the graph takes log-mels.
            ModelFileError: it cannot be read, is no ONNX graph, or none of ours.
        """
        self._graph = OnnxGraph(source)
        facts = self._graph.facts
        if facts.takes != "waveform":
            raise UsageError("the graph takes log-mels, expected one that takes a waveform; export it as such")
        self.labels = facts.labels
        self.sample_rate = facts.sample_rate
        self.step_samples = facts.step_samples
        self.first_step_samples = facts.first_step_samples
        self.chunk_samples = self._graph.chunk_shape[-1]

    def stream(self) -> OnnxStream:
        """A stream that has heard nothing."""
        return OnnxStream(self._graph)


class OnnxStream:
    """One stream through a graph that takes a waveform. A `hark.runtime.Stream`."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph = graph
        self.reset()

    def reset(self) -> None:
        """Begins anew, as if nothing had been heard."""
        self._state = self._graph.initial_state()
        self._waiting = np.zeros(0, np.float32)

    def step(self, sound: Sound, /) -> Floats:
        """Hears more sound; gives the posteriors `(steps, classes)` of the chunks it fills."""
        return float32_math.posteriors(self.step_logits(sound))

    def step_logits(self, sound: Sound, /) -> Floats:
        """As `step`, but gives the logits."""
        samples = np.concatenate([self._waiting, clean_samples(sound)[0]])
        size = self._graph.chunk_shape[-1]
        full = len(samples) // size * size
        self._waiting = samples[full:].copy()
        outputs = [np.zeros((0, len(self._graph.facts.labels)), np.float32)]
        for start in range(0, full, size):
            logits, self._state = self._graph.step(samples[None, start : start + size], self._state)
            outputs.append(logits[0].T)
        return np.concatenate(outputs)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise ModelFileError(
                f"{path}: {size:,} bytes, expected at most {LARGEST_BYTES:,}; it is no graph of ours"
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror}; give the path of an .onnx file") from error


def _facts(file: bytes) -> GraphFacts:
    """What the graph says of itself, before anything of it is run.

    Raises:
        ValueError: it is no graph, or not whole in itself.
        ConfigError: its facts are not those of a graph of ours.
    """
    try:
        import onnx
    except ImportError as error:
        raise _not_installed("onnx") from error
    try:
        model = onnx.load_model_from_string(file)
    except Exception as error:  # protobuf's own, whose class lies elsewhere in each version
        raise ValueError(f"no ONNX graph ({_brief(error)})") from error
    if model.functions or any(attribute.HasField("g") or attribute.graphs for attribute in _attributes(model)):
        raise ValueError("holds graphs within the graph")
    constants = [tensor for attribute in _attributes(model) for tensor in (attribute.t, *attribute.tensors)]
    if any(tensor.external_data or tensor.data_location for tensor in (*model.graph.initializer, *constants)):
        raise ValueError("keeps weights in other files, which are never opened")
    if model.graph.sparse_initializer or any(a.HasField("sparse_tensor") for a in _attributes(model)):
        raise ValueError("holds sparse weights")
    told = {entry.key.removeprefix(PREFIX): entry.value for entry in model.metadata_props}
    facts = {name: _value(text) for name, text in told.items()}
    return build(GraphFacts, known(GraphFacts, facts), where="its metadata")


def _attributes(model: Any) -> list[Any]:
    return [attribute for node in model.graph.node for attribute in node.attribute]


def _value(text: str) -> object:
    """A fact: JSON, or text as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _session(file: bytes) -> Any:
    """The graph in onnxruntime, on one thread.

    Raises:
        UsageError: it is not installed.
        ValueError: it refuses the graph.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise _not_installed("onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is fatal is raised
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have nothing else in common
        raise ValueError(f"onnxruntime refuses it ({_brief(error)})") from error


def _shapes(session: Any, facts: GraphFacts) -> tuple[tuple[int, ...], State]:
    """The shape of a chunk, and a state of zeros.

    Raises:
        ValueError: inputs and outputs are not those of a graph of ours.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    names = [entry.name for entry in inputs[1:]]
    if inputs[0].name != "chunk" or [entry.name for entry in outputs] != [
        "logits",
        "valid",
        *(f"next.{name}" for name in names),
    ]:
        raise ValueError("has other inputs and outputs than a chunk, logits and the state")
    shapes = [tuple(entry.shape) for entry in (*inputs, *outputs)]
    if not all(isinstance(size, int) and size >= 0 for shape in shapes for size in shape):
        raise ValueError("has inputs or outputs without a fixed shape")
    if len(shapes[0]) < 2 or not math.prod(shapes[0]):
        raise ValueError(f"takes chunks of shape {shapes[0]}, expected one stream of sound")
    if sum(math.prod(shape) for shape in shapes) > LARGEST_STATE or any(e.type not in _DTYPES for e in inputs):
        raise ValueError(f"has inputs of more than {LARGEST_STATE:,} numbers, or of other types")
    if outputs[0].shape[:2] != [1, len(facts.labels)]:
        raise ValueError(
            f"has logits of shape {outputs[0].shape}, expected one for each of {len(facts.labels)} labels"
        )
    return shapes[0], {entry.name: np.zeros(entry.shape, _DTYPES[entry.type]) for entry in inputs[1:]}


def _not_installed(name: str) -> UsageError:
    return UsageError(f'{name} is not installed; install it with: pip install "hark-kws[onnx]"')


def _brief(error: Exception) -> str:
    """An error's message in one line: parts of it may come from the file."""
    plain = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return " ".join(plain.split())[:200]
