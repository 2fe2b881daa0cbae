from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hark.errors import ModelFileError
from hark.packed import packing, reference_runner
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.network_reference import NetworkReference
from hark.packed.packed_layers import Arithmetic
from hark.proof.checks import Floats, Verification
from hark.proof.packed_verification import packed_checks, verify_packed
from hark.runtime import Model
from packed_models import ARITHMETICS, SEPARABLE, random_model

SLOW = LogMelConfig(sample_rate=1_000, n_fft=64, hop_length=50, n_mels=8)
"""So few samples a second that seconds cost little."""


def file_of(arithmetic: Arithmetic) -> bytes:
    return packing.to_bytes(random_model(arithmetic, ["convolution", "gru", "attention"], seed=1, front_end=SLOW))


def failed(verification: Verification) -> list[str]:
    return [check.name for check in verification.checks if not check.passed]


def one_class_of(arithmetic: Arithmetic) -> bytes:
    model = random_model(arithmetic, SEPARABLE, seed=8, front_end=SLOW)
    assert model.labels == ("wörd",)
    return packing.to_bytes(model)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("make", [file_of, one_class_of])
def test_an_engine_s_file_is_proved_without_any_difference(
    make: Callable[[Arithmetic], bytes], arithmetic: Arithmetic
) -> None:
    verification = verify_packed(make(arithmetic), seconds=30)
    assert verification.passed, failed(verification)
    assert [check.name.removeprefix("engine, ") for check in verification.checks] == [
        "chunks", "reset", "beside", "endless", "side by side", "reference",
    ]  # fmt: skip
    assert {(check.allowed, check.largest_difference) for check in verification.checks} == {(0.0, 0.0)}
    assert min(check.steps for check in verification.checks) > 50


def test_one_bit_that_the_reference_has_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneBitOff(NetworkReference):
        def step(self, features: Floats, state: Any) -> tuple[Floats, Any]:
            logits, after = super().step(features, state)
            logits[0, 0, 7:8] = np.nextafter(logits[0, 0, 7:8], np.float32(np.inf))
            return logits, after

    monkeypatch.setattr(reference_runner, "NetworkReference", OneBitOff)
    verification = verify_packed(file_of("float32"), seconds=10)
    assert failed(verification) == ["engine, reference"]
    assert verification.checks[-1].first_differing_step == 7


def test_streams_side_by_side_that_are_mixed_up_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Swapped:
        def __init__(self, streams: Any) -> None:
            self.streams = streams

        def step_logits(self, sound: Floats) -> Floats:
            outputs: Floats = self.streams.step_logits(sound)
            return outputs[[1, 0, *range(2, len(outputs))]]

    streams = Model.streams
    monkeypatch.setattr(Model, "streams", lambda self, count: Swapped(streams(self, count)))
    assert failed(verify_packed(file_of("float32"), seconds=10)) == ["engine, side by side"]


def test_checks_are_made_as_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = packed_checks(file_of("integer"), seconds=10)
    assert next(checks).passed
    monkeypatch.setattr(Model, "stream", None)
    with pytest.raises(TypeError):
        next(checks)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ModelFileError, match="begins with b'RIFF'"):
        verify_packed(b"RIFF")
