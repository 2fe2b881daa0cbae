"""Whether two runners of one spotter give the same: torch, ONNX, the engine and its reference, in any pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np

from hark.errors import VerificationError
from hark.proof.checks import Check, Floats, compare
from hark.proof.laws import BOTH, LOGITS, POSTERIORS, Listener, Outputs
from hark.proof.trial_sound import proof_sound, room_sound
from hark.runtime import Model, Runner
from hark.shipping.onnx_runner import TOLERANCE as ONNX_TOLERANCE
from hark.shipping.onnx_runner import OnnxRunner

PATIENCE_S = 60
"""Of silence, to drive out the steps that wait until a graph's chunk is full."""


@dataclass(frozen=True)
class Measure:
    """What of two runners is compared, on which sound, and how far apart it may be."""

    outputs: Outputs
    allowed: float
    sound: Callable[..., Iterator[Floats]] = room_sound


EXACT = Measure(BOTH, 0.0, proof_sound)
"""Of the engine, its reference and itself."""
EXACT_LOGITS = Measure(LOGITS, 0.0, proof_sound)
"""Of networks in integers on the same log-mels."""
FLOAT_LOGITS = Measure(LOGITS, 1e-4, proof_sound)
"""Of networks in float32 on the same log-mels, whose sums are in another order."""
TORCH = Measure(POSTERIORS, 1e-5)
"""Of a spotter in torch and itself: float32 sums in another order."""
FLOAT = Measure(POSTERIORS, 5e-5)
"""Of torch and the engine in float32. Trained networks were 5e-6 apart: front ends agree to 1e-5 of a log-mel."""
INTEGER = Measure(POSTERIORS, 5e-3)
"""Of torch and the engine in integers. Trained networks were 3e-4 apart: where a log-mel lies between two
integers, 1e-6 in the front ends is a whole unit. On the same log-mels they must be equal."""
ONNX = Measure(POSTERIORS, ONNX_TOLERANCE)
"""Of an ONNX graph and any other. Trained networks were 2e-5 apart: its Fourier transform is a product of
matrices, which rounds more."""


def agreement_check(found: Runner, expected: Runner, *, seconds: float) -> Check:
    """Compare two forms of a spotter, as exactly as the two can agree.

    Raises:
        VerificationError: they spot different things, or at different times.
    """
    names = name_of(found), name_of(expected)
    return compare_runners(
        ", ".join(names), " against ".join(names), (found, expected), _measure(found, expected), seconds=seconds
    )


def compare_runners(
    name: str, compared: str, runners: tuple[Runner, Runner], measure: Measure, *, seconds: float
) -> Check:
    """Compare all steps that two runners give for `seconds` of sound.

    Raises:
        VerificationError: they spot different things, or at different times.
    """
    _expect_same_spotter(*runners)
    found, expected = (_all_steps(runner, measure, seconds) for runner in runners)
    return compare(name, compared, found, expected, allowed=measure.allowed)


def name_of(runner: Runner) -> str:
    """What checks call a runner."""
    match runner:
        case Model():
            return "engine"
        case OnnxRunner():
            return "ONNX"
        case _:
            return "torch"


def _measure(*runners: Runner) -> Measure:
    engines = [runner for runner in runners if isinstance(runner, Model)]
    if any(isinstance(runner, OnnxRunner) for runner in runners):
        return ONNX
    if len(engines) == len(runners):
        return EXACT
    if engines:
        return INTEGER if engines[0].is_integer else FLOAT
    return TORCH


def _expect_same_spotter(found: Runner, expected: Runner) -> None:
    for fact in ("labels", "sample_rate", "step_samples", "first_step_samples"):
        a, b = getattr(found, fact), getattr(expected, fact)
        if a != b:
            raise VerificationError(
                f"the {fact.replace('_', ' ')} of {name_of(found)}: {a}, of {name_of(expected)}: {b}; "
                "expected two forms of one model"
            )


def _all_steps(runner: Runner, measure: Measure, seconds: float) -> Iterator[Floats]:
    """All steps of the sound; those that are still waiting at its end are driven out by silence."""
    rate, listener = runner.sample_rate, Listener(runner, measure.outputs)
    left = (round(seconds * rate) - runner.first_step_samples) // runner.step_samples + 1
    silence = repeat(np.zeros(rate, np.float32), PATIENCE_S)
    for piece in chain(measure.sound(rate, seconds=seconds), silence):
        if left <= 0:
            return
        outputs = listener.step(piece)
        yield outputs[:left]
        left -= len(outputs)
