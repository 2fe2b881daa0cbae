"""A graph is a runner like any other; what is no graph of ours is refused before anything of it is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from contract import seeded
from hark.errors import ModelError, ModelFileError, UsageError
from hark.network.crnn import CrnnConfig
from hark.network.spotter import Spotter, SpotterConfig
from hark.runtime import Runner
from hark.shipping.onnx import Lockstep, to_graph
from hark.shipping.onnx_runner import OnnxGraph, OnnxRunner
from hark.shipping.torch_runner import TorchRunner

Change = Callable[[onnx.ModelProto], object]


@pytest.fixture(scope="module")
def spotter() -> Spotter:
    network = CrnnConfig(channels=2, kernel=(5, 20), stride=(4, 8), hidden=(6,))
    return seeded(lambda: Spotter(SpotterConfig(keyword="beep", network=network))).eval()


@pytest.fixture(scope="module")
def graph(spotter: Spotter) -> bytes:
    return to_graph(Lockstep(spotter, steps=2).eval())


def noise(seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(3).standard_normal(int(16_000 * seconds))).astype(np.float32)


def changed(graph: bytes, change: Change) -> bytes:
    model = onnx.load_model_from_string(graph)
    change(model)
    return bytes(model.SerializeToString())


def test_a_graph_is_a_runner_with_the_facts_of_its_spotter(graph: bytes, spotter: Spotter) -> None:
    runner: Runner = OnnxRunner(graph)
    expected = TorchRunner(spotter)
    for fact in ("labels", "sample_rate", "step_samples", "first_step_samples"):
        assert getattr(runner, fact) == getattr(expected, fact)
    assert runner.stream().step(np.zeros(0, np.int16)).shape == (0, 2)


def test_steps_come_when_their_chunk_is_full_and_are_those_of_torch(graph: bytes, spotter: Spotter) -> None:
    runner, sound = OnnxRunner(graph), noise(3.0)
    assert runner.chunk_samples == 2 * runner.step_samples
    stream = runner.stream()
    counts = [len(stream.step(sound[at : at + 1_000])) for at in range(0, 48_000, 1_000)]
    assert set(counts) == {0, 2}
    expected = TorchRunner(spotter).stream().step(sound)
    found = runner.stream().step(sound)
    assert 0 <= len(expected) - len(found) <= 2
    assert len(found) == sum(counts)
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-5)


def test_int16_and_samples_that_are_no_numbers_are_heard_as_by_every_runner(graph: bytes) -> None:
    runner, sound = OnnxRunner(graph), noise(1.0)
    sound[100:200] = 0
    whole = np.rint(sound * 32_768).astype(np.int16)
    sound = whole / np.float32(32_768)
    expected = runner.stream().step_logits(sound)
    np.testing.assert_array_equal(runner.stream().step_logits(whole), expected)
    sound[100:200] = np.nan
    np.testing.assert_array_equal(runner.stream().step_logits(sound), expected)


def test_a_file_is_opened_by_its_path(graph: bytes, tmp_path: Path) -> None:
    path = tmp_path / "word.onnx"
    path.write_bytes(graph)
    sound = noise(1.0)
    np.testing.assert_array_equal(OnnxRunner(path).stream().step(sound), OnnxRunner(graph).stream().step(sound))


def test_a_graph_of_log_mels_is_no_runner_of_sound(spotter: Spotter) -> None:
    with pytest.raises(UsageError, match="takes log-mels, expected one that takes a waveform"):
        OnnxRunner(to_graph(Lockstep(spotter, takes="features").eval()))


def outside(model: onnx.ModelProto) -> None:
    """A weight in a file of the machine that opens the graph."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def outside_in_a_constant(model: onnx.ModelProto) -> None:
    value = onnx.TensorProto(data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["stolen"], value=value))


def inner_graph(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["valid"], [], then_branch=inner, else_branch=inner))


def fact(name: str, value: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == f"hark.{name}").value = json.dumps(value)

    return change


def renamed(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "loudness"
    model.graph.node[-1].output[0] = "loudness"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (outside, "keeps weights in other files, which are never opened"),
        (outside_in_a_constant, "keeps weights in other files, which are never opened"),
        (inner_graph, "holds graphs within the graph"),
        (lambda model: model.ClearField("metadata_props"), "its metadata: no labels, expected a list"),
        (fact("sample_rate", "16000 Hz"), "sample_rate is '16000 Hz', expected"),
        (fact("step_samples", 0), "step_samples is 0, expected 1 to 2\\^30"),
        (fact("labels", ["a", "b", "c"]), r"logits of shape \[1, 2, 2\], expected one for each of 3 labels"),
        (lambda model: model.graph.node[0].input.append("nothing"), "onnxruntime refuses it"),
        (lambda model: model.graph.output.pop(), "other inputs and outputs than a chunk, logits and the state"),
        (lambda model: model.graph.input[1].type.tensor_type.shape.dim[0].ClearField("dim_value"), "fixed shape"),
    ],
)
def test_what_is_no_graph_of_ours_is_refused_with_the_reason(graph: bytes, change: Change, message: str) -> None:
    with pytest.raises(ModelFileError, match=f"{message}.*; expected a graph that hark has exported"):
        OnnxGraph(changed(graph, change))


@pytest.mark.parametrize("file", [b"", b"HARK", b"\x08" * 99, bytes(1_000)])
def test_what_is_no_graph_at_all_is_refused(file: bytes) -> None:
    with pytest.raises(
        ModelFileError, match=r"a graph of [\d,]+ bytes: .*; expected a graph that hark has exported"
    ):
        OnnxRunner(file)


def test_every_cut_of_a_graph_is_refused(graph: bytes) -> None:
    for end in range(0, len(graph), len(graph) // 50):
        with pytest.raises(ModelFileError):
            OnnxRunner(graph[:end])


def test_a_file_that_cannot_be_a_graph_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(
        ModelFileError, match=r"absent\.onnx: No such file or directory; give the path of an \.onnx"
    ):
        OnnxRunner(tmp_path / "absent.onnx")
    film = tmp_path / "film.onnx"
    with film.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelFileError, match="1,099,511,627,776 bytes, expected at most 67,108,864"):
        OnnxRunner(film)


def test_a_graph_that_fails_as_it_runs_says_so(graph: bytes) -> None:
    opened = OnnxGraph(graph)
    with pytest.raises(ModelError, match="onnxruntime fails to run the graph"):
        opened.step(np.zeros((1, 3), np.float32), opened.initial_state())


def test_a_graph_keeps_no_state_of_its_own(graph: bytes) -> None:
    runner, sound = OnnxRunner(graph), torch.from_numpy(noise(2.0)).numpy()
    first, second = runner.stream(), runner.stream()
    expected = first.step_logits(sound)
    np.testing.assert_array_equal(second.step_logits(sound), expected)
    first.reset()
    np.testing.assert_array_equal(first.step_logits(sound), expected)
