"""A spotter as an ONNX graph: a chunk and the state in, logits and the next state out.

A graph's shapes are fixed, so a chunk is a whole number of the network's steps, and `Lockstep` brings the stream
into that form. Every tensor of the state is an input and an output of its own, named as in torch (`gru.0.hidden`
goes on as `next.gru.0.hidden`) and zero when a stream begins; the graph's metadata tells the rest.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hark import __version__
from hark.errors import ConfigError, ModelError, UsageError, VerificationError
from hark.files import write_atomically
from hark.network.attention import WindowAttention
from hark.network.features import FLOOR, LogMelConfig, hann_window
from hark.network.spotter import Spotter
from hark.network.streaming import State, flatten, leaf, substate, unflatten
from hark.shipping.onnx_runner import PREFIX, TOLERANCE, Input, OnnxGraph
from hark.shrinking.integer_network import IntegerCrnn

OPSET = 20
MOST_STEPS = 64


class Lockstep(nn.Module):
    """A spotter whose every call takes `steps` steps of sound and gives `steps` outputs.

    A stream's outputs fall where a window is complete, which need not be the end of a chunk. Here the newest
    `lag_frames` wait for the next chunk, so that they do; the outputs before the first whole window are marked
    as not valid, and the state stays at its beginning meanwhile.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, model: Spotter, *, steps: int = 1, takes: Input = "waveform") -> None:
        """`takes` is what a chunk holds: a waveform in ±1, or log-mels of the same front end.

        Raises:
            ModelError: the model computes in the engine's integers.
            ConfigError: `steps` is not 1 to 64.
        """
        super().__init__()
        if isinstance(model.network, IntegerCrnn):
            raise ModelError(
                "the model computes in the engine's integers, expected a float one, for a graph has no such "
                'arithmetic; export the float model it was made from, or pack it with "hark pack"'
            )
        if not 1 <= steps <= MOST_STEPS:
            raise ConfigError(f"{steps} steps a chunk, expected 1 to {MOST_STEPS}")
        self.model = model
        self.steps = steps
        self.takes = takes
        network = model.config.network
        self.lag_frames = -network.seen_frames % network.step_frames
        self.past_frames = network.seen_frames + self.lag_frames - network.step_frames
        self.empty_steps = self.past_frames // network.step_frames
        self.chunk_frames = steps * network.step_frames
        cosines, sines = windowed_dft(model.config.features)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """`(1, samples)` or `(1, n_mels, frames)`."""
        config = self.model.config.features
        if self.takes == "waveform":
            return (1, self.chunk_frames * config.hop_length)
        return (1, config.n_mels, self.chunk_frames)

    @property
    def lag_samples(self) -> int:
        """The newest sound, which waits for the next chunk."""
        return self.lag_frames * self.model.config.features.hop_length

    def initial_state(self) -> State:
        """All zero: what is not yet filled is known from `steps`, the number of those made."""
        config, network = self.model.config.features, self.model.network
        state: State = {
            "steps": torch.zeros(1, dtype=torch.int64),
            "conv": {"past": torch.zeros(1, config.n_mels, self.past_frames)},
            "gru": network.gru.initial_state(),
        }
        if network.attention is not None:
            attention = network.attention.initial_state()
            state["attention"] = {
                name: torch.zeros_like(leaf(attention, name)) for name in attention if name != "filled"
            }
        if self.takes == "waveform":
            state["samples"] = {"past": torch.zeros(1, config.n_fft - config.hop_length)}
        return state

    def step(self, chunk: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """A chunk to logits `(1, classes, steps)`, whether each is valid `(steps,)`, and the new state."""
        after: State = {"steps": leaf(state, "steps") + self.steps}
        if self.takes == "waveform":
            chunk, after["samples"] = self._log_mels(chunk, substate(state, "samples"))
        maps, after["conv"] = self._convolve(self.model.normalize(chunk), substate(state, "conv"))

        network = self.model.network
        inner: State = {"gru": substate(state, "gru"), "attention": self._filled(state)}
        logits, valid = [], []
        for index in range(self.steps):
            made = leaf(state, "steps") + index - self.empty_steps
            hidden, gru = network.gru.step(maps[..., index : index + 1], substate(inner, "gru"))
            context, attention = self._attend(hidden, substate(inner, "attention"))
            inner = _where(made >= 0, {"gru": gru, "attention": attention}, inner)
            logits.append(network.classifier(context))
            valid.append(made >= self._waited_steps)
        return torch.cat(logits, dim=-1), torch.cat(valid), {**inner, **after}

    def forward(self, chunk: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """As `step`, with the state as a row of tensors."""
        like = self.initial_state()
        names = list(flatten(like))
        logits, valid, after = self.step(chunk, unflatten(dict(zip(names, state, strict=True)), like))
        flat = flatten(after)
        return logits, valid, *(flat[name] for name in names)

    def _log_mels(self, chunk: Tensor, state: State) -> tuple[Tensor, State]:
        config = self.model.config.features
        samples = torch.cat((leaf(state, "past"), chunk), dim=-1)
        frames = samples.unfold(-1, config.n_fft, config.hop_length)
        power = ((frames @ self.cosines).square() + (frames @ self.sines).square()) @ self.model.features.bank
        return power.clamp(min=FLOOR).log().transpose(1, 2), {"past": samples[..., chunk.shape[-1] :]}

    def _convolve(self, log_mels: Tensor, state: State) -> tuple[Tensor, State]:
        network = self.model.network
        frames = torch.cat((leaf(state, "past"), log_mels), dim=-1)
        maps = frames[..., : frames.shape[-1] - self.lag_frames].unsqueeze(1)
        for _, layer in network.front():
            maps = layer.windows(maps)
        values = maps.flatten(1, 2) if network.reduce is None else network.reduce(maps.flatten(1, 2))
        return values, {"past": frames[..., self.chunk_frames :]}

    @property
    def _waited_steps(self) -> int:
        """Of those made, the first ones that a mean over a window has no output for."""
        config = self.model.config.network
        return (config.first_step_frames - config.seen_frames) // config.step_frames

    def _attend(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        match self.model.network.attention:
            case None:
                return hidden, state
            case WindowAttention() as attention:
                return attention.step(hidden, state)
            case mean:
                steps = torch.cat((leaf(state, "past"), hidden.unsqueeze(1)), dim=-1)
                return mean.windows(steps).squeeze(1), {"past": steps[..., 1:]}

    def _filled(self, state: State) -> State:
        """The state of attention, slots that were not yet filled weighing nothing."""
        network = self.model.network
        if not isinstance(network.attention, WindowAttention):
            return substate(state, "attention") if network.attention is not None else {}
        attention = substate(state, "attention")
        slots = network.attention.window - 1
        filled = leaf(state, "steps") - self.empty_steps
        is_filled = torch.arange(slots) >= slots - filled
        # Not -inf, which some runtimes turn into NaN: this weighs nothing in float32 either.
        energy = torch.where(is_filled, leaf(attention, "energy"), torch.tensor(-1e30))
        return {**attention, "energy": energy}


def windowed_dft(config: LogMelConfig) -> tuple[Tensor, Tensor]:
    """Window and Fourier transform as two matrices `(n_fft, bins)`.

    In onnxruntime this product is three times as fast as the operator `DFT`, and closer to torch's transform.
    """
    samples = torch.arange(config.n_fft, dtype=torch.float64)[:, None]
    bins = torch.arange(config.n_fft // 2 + 1, dtype=torch.float64)
    angle = 2 * torch.pi * (samples * bins % config.n_fft) / config.n_fft
    window = hann_window(config)[:, None]
    return (window * torch.cos(angle)).float(), (window * torch.sin(angle)).float()


def _where(condition: Tensor, new: State, old: State) -> State:
    before = flatten(old)
    return unflatten({name: torch.where(condition, t, before[name]) for name, t in flatten(new).items()}, old)


def export_onnx(model: Spotter, path: Path, *, steps: int = 1, takes: Input = "waveform") -> float:
    """Write a spotter as an ONNX graph, or nothing where the graph does not give what torch gives.

    Args:
        model: the spotter, quantised or not; weights become float32.
        path: the file.
        steps: of the network in a chunk.
        takes: what a chunk holds.

    Returns:
        The largest difference between a logit of the graph, run by onnxruntime, and of the torch stream.

    Raises:
        UsageError: the extra `onnx` is not installed.
        ModelError: the model computes in the engine's integers.
        VerificationError: the difference is above `TOLERANCE`.
    """
    lockstep = Lockstep(model.eval(), steps=steps, takes=takes).eval()
    graph = to_graph(lockstep)
    difference = parity(graph, lockstep)
    if not difference <= TOLERANCE:
        raise VerificationError(
            f"{path}: not written, a logit of the graph is {difference:.1e} away from torch's, "
            f"expected at most {TOLERANCE:.0e}; try another version of onnxscript"
        )
    write_atomically(path, graph)
    return difference


@torch.no_grad()
def to_graph(lockstep: Lockstep) -> bytes:
    """The bytes of the ONNX file."""
    state = flatten(lockstep.initial_state())
    try:
        import onnxscript  # noqa: F401 (torch's exporter needs it and says so in a page of text)
    except ImportError as error:
        raise UsageError('onnxscript is not installed; install it with: pip install "hark-kws[onnx]"') from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            lockstep,
            (torch.zeros(lockstep.chunk_shape), *state.values()),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["chunk", *state],
            output_names=["logits", "valid", *(f"next.{name}" for name in state)],
        )
    assert program is not None
    program.optimize()
    proto = program.model_proto
    for entry in (
        *proto.graph.node,
        *proto.graph.value_info,
        *proto.graph.input,
        *proto.graph.output,
        proto.graph,
    ):
        entry.ClearField("metadata_props")  # stack traces, with this machine's paths
    for key, value in _metadata(lockstep).items():
        proto.metadata_props.add(key=key, value=value)
    proto.producer_name, proto.producer_version = "hark", __version__
    return bytes(proto.SerializeToString(deterministic=True))


def _metadata(lockstep: Lockstep) -> dict[str, str]:
    config = lockstep.model.config
    facts = {
        "labels": config.labels,
        "takes": lockstep.takes,
        "sample_rate": config.features.sample_rate,
        "chunk_shape": lockstep.chunk_shape,
        "step_samples": lockstep.model.step_samples,
        "first_step_samples": lockstep.model.first_step_samples,
        "output_lag_samples": lockstep.lag_samples,
        "state": {name: list(tensor.shape) for name, tensor in flatten(lockstep.initial_state()).items()},
        "initial_state": "zeros",
    }
    return {
        f"{PREFIX}{name}": value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()
    }


@torch.no_grad()
def parity(graph: bytes, lockstep: Lockstep, *, seconds: int = 10) -> float:
    """The largest difference between the logits of a graph and of the torch stream, over noise that swells."""
    config = lockstep.model.config.features
    rng = np.random.default_rng(0)
    samples = seconds * config.sample_rate
    waveform = torch.from_numpy(
        rng.standard_normal((1, samples), np.float32) * np.logspace(-5, -0.5, samples, dtype=np.float32)
    )
    sound = waveform if lockstep.takes == "waveform" else lockstep.model.features(waveform)
    size = lockstep.chunk_shape[-1]
    opened = OnnxGraph(graph)
    state, outputs = opened.initial_state(), []
    for start in range(0, sound.shape[-1] - size + 1, size):
        logits, state = opened.step(sound[..., start : start + size].numpy(), state)
        outputs.append(logits)
    found = np.concatenate(outputs, axis=-1)
    expected = lockstep.model(waveform).numpy()[..., : found.shape[-1]]
    return float(np.abs(found - expected).max())
