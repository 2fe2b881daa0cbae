from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contract import SMALL, seeded, spotter
from hark.errors import VerificationError
from hark.network.crnn import CrnnConfig
from hark.network.spotter import Spotter
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_layers import FloatMatrix, Linear
from hark.proof.agreement import EXACT, FLOAT, INTEGER, ONNX, TORCH, agreement_check, compare_runners
from hark.runtime import Model
from hark.shipping.model_packing import pack
from hark.shipping.onnx import Lockstep, to_graph
from hark.shipping.onnx_runner import OnnxRunner
from hark.shipping.torch_runner import TorchRunner
from hark.shrinking.integer_quantization import calibrate, quantize_to_integers

SLOW = LogMelConfig(sample_rate=1_000, n_fft=64, hop_length=50, n_mels=8)


def small(network: CrnnConfig = SMALL) -> Spotter:
    return spotter(network, features=SLOW)


def integers() -> Spotter:
    model = small()
    return quantize_to_integers(model, calibrate(model, seeded(lambda: 0.3 * torch.randn(2, 1_000))))


def packed(model: Spotter) -> Model:
    return Model(packing.to_bytes(pack(model)))


@pytest.fixture(scope="module")
def graph() -> bytes:
    return to_graph(Lockstep(small(), steps=3).eval())


def test_every_pair_of_forms_agrees_as_exactly_as_it_can(graph: bytes) -> None:
    torch_runner, engine, onnx = TorchRunner(small()), packed(small()), OnnxRunner(graph)
    twin, in_integers = TorchRunner(integers()), packed(integers())
    for found, expected, measure, name in (
        (torch_runner, TorchRunner(small()), TORCH, "torch against torch"),
        (engine, packed(small()), EXACT, "engine against engine"),
        (engine, torch_runner, FLOAT, "engine against torch"),
        (in_integers, twin, INTEGER, "engine against torch"),
        (onnx, torch_runner, ONNX, "ONNX against torch"),
        (engine, onnx, ONNX, "engine against ONNX"),
    ):
        check = agreement_check(found, expected, seconds=10)
        assert check.passed, check.fault
        assert (check.compared, check.allowed) == (name, measure.allowed)
        assert check.steps == (10_000 - torch_runner.first_step_samples) // torch_runner.step_samples + 1


def test_a_weight_that_was_changed_is_found_in_every_pair(graph: bytes) -> None:
    values = pack(small())
    matrix = values.layers[-1].matrix  # type: ignore[union-attr]
    changed = FloatMatrix(matrix.weights * np.float32(1.01), matrix.bias)
    wrong = Model(packing.to_bytes(replace(values, layers=(*values.layers[:-1], Linear(changed)))))
    for right in (TorchRunner(small()), packed(small()), OnnxRunner(graph)):
        check = agreement_check(wrong, right, seconds=10)
        assert not check.passed
        assert check.missing_steps == 0
        assert check.first_differing_step is not None


def test_steps_that_never_come_are_missing() -> None:
    class Mute:
        def __init__(self, model: Model) -> None:
            self.labels, self.sample_rate = model.labels, model.sample_rate
            self.step_samples, self.first_step_samples = model.step_samples, model.first_step_samples
            self.stream = lambda: self

        def step(self, sound: np.ndarray) -> np.ndarray:
            return np.zeros((0, 2), np.float32)

        step_logits = step

    engine = packed(small())
    check = agreement_check(Mute(engine), engine, seconds=10)  # type: ignore[arg-type]
    assert not check.passed
    assert (check.steps, check.first_differing_step) == (0, 0)
    assert check.missing_steps == 99


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: small(replace(SMALL, stride=(2, 1))), "the step samples of torch: 100, of engine: 50"),
        (lambda: small(replace(SMALL, kernel=(3, 5))), "the first step samples of torch: 200, of engine: 250"),
        (lambda: spotter(SMALL, features=replace(SLOW, sample_rate=2_000)), "the sample rate of torch: 1000, of "),
    ],
)
def test_forms_of_different_models_are_not_compared(other, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(VerificationError, match=f"{message}.*; expected two forms of one model"):
        agreement_check(TorchRunner(small()), packed(other()), seconds=10)


def test_one_number_in_a_million_that_differs_is_no_exact_agreement() -> None:
    engine, torch_runner = packed(small()), TorchRunner(small())
    check = compare_runners("a", "b", (engine, torch_runner), EXACT, seconds=10)
    assert not check.passed
    assert check.largest_difference < 1e-2


def test_a_graph_is_heard_to_its_last_step(graph: bytes, tmp_path: Path) -> None:
    """Its newest steps wait for a whole chunk, which nothing but more sound can fill."""
    runner = OnnxRunner(graph)
    assert runner.chunk_samples == 3 * runner.step_samples
    for samples in range(300, 300 + runner.chunk_samples + 1, 50):
        check = agreement_check(runner, TorchRunner(small()), seconds=samples / 1_000)
        assert check.passed, check.fault
