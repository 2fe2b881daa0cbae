from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from contract import CHEAPER, SMALL, seeded, spotter
from hark.errors import VerificationError
from hark.network.spotter import Spotter
from hark.network.streaming import State
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_layers import IntegerMatrix, Linear
from hark.proof.checks import Verification
from hark.proof.verification import verify_spotter
from hark.shipping.model_packing import pack
from hark.shrinking.integer_quantization import calibrate, quantize_to_integers

SLOW = LogMelConfig(sample_rate=1_000, n_fft=64, hop_length=50, n_mels=8)

TORCH_LAWS = ["torch, chunks", "torch, reset", "torch, beside", "torch, endless"]
ENGINE_LAWS = [law.replace("torch", "engine") for law in TORCH_LAWS]
PAIRS = ["engine, torch", "engine, torch’s network"]


def floats() -> Spotter:
    return spotter(SMALL, features=SLOW)


def integers() -> Spotter:
    return quantize_to_integers(floats(), calibrate(floats(), seeded(lambda: 0.3 * torch.randn(2, 1_000))))


def verified(model: Spotter, file: bytes | None) -> Verification:
    return verify_spotter(model, file, seconds=10, packed_seconds=20)


def failed(verification: Verification) -> list[str]:
    return [check.name for check in verification.checks if not check.passed]


@pytest.mark.parametrize(("build", "allowed"), [(floats, 1e-4), (integers, 0.0)])
def test_a_spotter_and_its_file_are_proved(build: Callable[[], Spotter], allowed: float) -> None:
    """Torch's integers are the engine's to the last bit."""
    verification = verified(build(), packing.to_bytes(pack(build())))
    names = [check.name for check in verification.checks]
    assert names == [*TORCH_LAWS, *ENGINE_LAWS, "engine, side by side", "engine, reference", *PAIRS]
    assert verification.passed, failed(verification)
    assert verification.artefact == "torch and engine"
    last = verification.checks[-1]
    assert (last.allowed, last.steps) == (allowed, 99)


@pytest.mark.parametrize("name", CHEAPER)
@pytest.mark.parametrize("scales", [None, "matrix"])
def test_cheaper_spotters_and_their_files_are_proved(name: str, scales: Literal["matrix"] | None) -> None:
    model = spotter(CHEAPER[name], features=SLOW)
    if scales:
        calibration = calibrate(model, seeded(lambda: 0.3 * torch.randn(2, 1_000)))
        model = quantize_to_integers(model, calibration, scales=scales)
    verification = verify_spotter(model, packing.to_bytes(pack(model)), seconds=6, packed_seconds=10)
    assert verification.passed, failed(verification)


def test_a_spotter_without_a_file_is_held_to_the_laws_alone() -> None:
    verification = verified(floats(), None)
    assert [check.name for check in verification.checks] == TORCH_LAWS
    assert verification.passed
    assert verification.artefact == "torch"


def test_a_file_with_one_weight_changed_is_found() -> None:
    """By one level, in the last layer: too little for what the front ends are allowed, not for the last bit."""
    values = pack(integers())
    matrix = values.layers[-1].matrix  # type: ignore[union-attr]
    assert isinstance(matrix, IntegerMatrix)
    weights = matrix.weights.copy()
    weights[0, 0] += 1 if weights[0, 0] < 127 else -1
    layers = (*values.layers[:-1], Linear(replace(matrix, weights=weights)))
    assert failed(verified(integers(), packing.to_bytes(replace(values, layers=layers)))) == PAIRS[1:]


def test_a_file_of_another_training_is_found() -> None:
    other = spotter(SMALL, features=SLOW, seed=1)
    assert failed(verified(floats(), packing.to_bytes(pack(other)))) == PAIRS


def test_a_file_that_spots_something_else_is_refused() -> None:
    values = replace(pack(floats()), labels=("", "other"))
    with pytest.raises(VerificationError, match=r"the labels of engine.*other.*, of torch.*happy"):
        verified(floats(), packing.to_bytes(values))


def test_a_spotter_that_does_not_stream_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = floats()
    attend = model.network.attention.attend

    def forgetful(x: Tensor, state: State, **told: Any) -> Any:
        return attend(x, model.network.attention.initial_state(), **told)

    monkeypatch.setattr(model.network.attention, "attend", forgetful)
    assert failed(verified(model, None)) == ["torch, chunks", "torch, beside", "torch, endless"]


def test_a_spotter_of_nan_is_no_spotter() -> None:
    model = floats()
    with torch.no_grad():
        model.network.classifier.bias[1] = np.nan
    assert failed(verified(model, None)) == TORCH_LAWS
