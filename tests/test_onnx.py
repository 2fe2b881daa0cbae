"""An ONNX graph gives what the torch stream gives, chunk by chunk, or it is not written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from contract import seeded
from hark.errors import ConfigError, ModelError, VerificationError
from hark.network.crnn import CrnnConfig
from hark.network.spotter import Spotter, SpotterConfig
from hark.network.streaming import flatten
from hark.shipping import onnx as exports
from hark.shipping.onnx import Lockstep, export_onnx, to_graph
from hark.shipping.onnx_runner import Input, OnnxGraph
from hark.shrinking.integer_quantization import calibrate, quantize_to_integers
from hark.shrinking.quantization import quantize

NETWORKS = {
    "two layers, windows of whole strides": CrnnConfig(channels=2, kernel=(5, 20), stride=(4, 10), hidden=(5, 4)),
    "a window that ends between strides": CrnnConfig(channels=2, kernel=(5, 20), stride=(4, 8), hidden=(6,)),
    "no overlap": CrnnConfig(channels=1, kernel=(8, 12), stride=(8, 12), hidden=(3,), attention_window=3),
    "pooled, separable, minimal, query, one logit": CrnnConfig(
        pooling=(2, 2),
        channels=2,
        kernel=(3, 9),
        stride=(2, 4),
        convolution="separable",
        cell="minimal",
        hidden=(5,),
        attention="query",
        classes=1,
    ),
    "low rank, fast, mean": CrnnConfig(
        channels=2, kernel=(5, 20), stride=(4, 8), rank=3, cell="fast", hidden=(5,), attention="mean"
    ),
    "last": CrnnConfig(pooling=(1, 3), channels=2, kernel=(5, 6), stride=(4, 3), hidden=(4,), attention="last"),
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
def model(request: pytest.FixtureRequest) -> Spotter:
    return seeded(lambda: Spotter(SpotterConfig(keyword="beep", network=request.param))).eval()


def sound(seconds: float) -> torch.Tensor:
    return torch.from_numpy(0.1 * np.random.default_rng(3).standard_normal((1, int(16_000 * seconds)), np.float32))


@torch.no_grad()
def through(graph: bytes, lockstep: Lockstep, waveform: torch.Tensor) -> np.ndarray[Any, Any]:
    heard = waveform if lockstep.takes == "waveform" else lockstep.model.features(waveform)
    opened, size = OnnxGraph(graph), lockstep.chunk_shape[-1]
    state, outputs = opened.initial_state(), []
    for start in range(0, heard.shape[-1] - size + 1, size):
        logits, state = opened.step(heard[..., start : start + size].numpy(), state)
        outputs.append(logits)
    return np.concatenate(outputs, axis=-1)


@pytest.mark.parametrize(("takes", "steps"), [("waveform", 1), ("waveform", 3), ("features", 2)])
def test_a_graph_gives_the_logits_of_the_torch_stream(model: Spotter, takes: Input, steps: int) -> None:
    lockstep = Lockstep(model, steps=steps, takes=takes).eval()
    waveform = sound(3.0)
    with torch.no_grad():
        expected = model(waveform).numpy()
    found = through(to_graph(lockstep), lockstep, waveform)
    # What is missing at the end waits for a chunk that is not full.
    assert 0 <= expected.shape[-1] - found.shape[-1] <= steps
    np.testing.assert_allclose(found, expected[..., : found.shape[-1]], atol=1e-5)


@pytest.mark.parametrize("takes", ["waveform", "features"])
def test_a_stream_begins_with_zeros_and_its_first_steps_are_empty(model: Spotter, takes: Input) -> None:
    lockstep = Lockstep(model, takes=takes).eval()
    assert all(not tensor.any() for tensor in flatten(lockstep.initial_state()).values())
    graph = OnnxGraph(to_graph(lockstep))
    state, steps = graph.initial_state(), []
    for chunk in np.random.default_rng(0).standard_normal((16, *lockstep.chunk_shape)).astype(np.float32):
        logits, state = graph.step(chunk, state)
        steps.append(logits.shape[-1])
    silent = (lockstep.model.first_step_samples + lockstep.lag_samples) // lockstep.model.step_samples - 1
    assert steps == [0] * silent + [1] * (16 - silent)


def test_a_quantised_model_is_exported_with_its_rounded_weights(model: Spotter, tmp_path: Path) -> None:
    assert export_onnx(quantize(model), tmp_path / "model.onnx") < 1e-5


def test_a_file_is_valid_the_same_each_time_and_tells_how_it_is_used(model: Spotter, tmp_path: Path) -> None:
    path, again = tmp_path / "model.onnx", tmp_path / "again.onnx"
    export_onnx(model, path)
    export_onnx(model, again)
    assert path.read_bytes() == again.read_bytes()
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(facts["hark.labels"]) == [*model.config.labels], "as in every runner"
    assert json.loads(facts["hark.first_step_samples"]) == model.first_step_samples
    inputs = {entry.name: [d.dim_value for d in entry.type.tensor_type.shape.dim] for entry in graph.graph.input}
    assert json.loads(facts["hark.chunk_shape"]) == inputs.pop("chunk")
    assert json.loads(facts["hark.state"]) == inputs
    assert [entry.name for entry in graph.graph.output][2:] == [f"next.{name}" for name in inputs]
    assert not any(node.metadata_props for node in graph.graph.node)
    assert str(Path(__file__).parents[1]).encode() not in path.read_bytes()


def test_a_graph_that_gives_other_logits_is_not_written(
    tiny_spotter: Callable[[], Spotter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_spotter().eval()
    graph = to_graph(Lockstep(other).eval())
    with torch.no_grad():
        other.network.classifier.bias += 0.01
    monkeypatch.setattr(exports, "to_graph", lambda lockstep: graph)
    with pytest.raises(VerificationError, match=r"not written.* 1\.0e-02 away"):
        export_onnx(other, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_the_engine_s_integers_are_not_exported(tiny_spotter: Callable[[], Spotter], tmp_path: Path) -> None:
    model = tiny_spotter().eval()
    model.normalize.normalize(torch.full((40,), -3.0), torch.full((40,), 2.0))
    integers = quantize_to_integers(model, calibrate(model, sound(1.0)))
    with pytest.raises(ModelError, match=r"in the engine's integers.*export the float model.*\"hark pack\""):
        export_onnx(integers, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("steps", [0, 65])
def test_a_chunk_has_a_sane_number_of_steps(tiny_spotter: Callable[[], Spotter], steps: int) -> None:
    with pytest.raises(ConfigError, match=f"{steps} steps a chunk, expected 1 to 64"):
        Lockstep(tiny_spotter(), steps=steps)
