"""The proof of a `.hark` file, to the last bit and without torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hark.packed import packing
from hark.packed.reference_runner import ReferenceRunner
from hark.proof.agreement import EXACT, compare_runners
from hark.proof.checks import Check, Floats, Verification, compare
from hark.proof.laws import BOTH, law_checks
from hark.proof.trial_sound import BLOCK_S, proof_sound, random_chunks
from hark.runtime import Model

HOUR_S = 3600.0
REFERENCE_S = 20.0
"""NumPy is some thousand times slower than the engine."""
SIDE_BY_SIDE = 9
"""Streams: more than a vector has lanes, and not a multiple of them."""


def verify_packed(file: bytes, *, seconds: float = HOUR_S) -> Verification:
    """Prove the bytes of a `.hark` file on this machine's engine; see `packed_checks`.

    Raises:
        ModelFileError: it is no model, or damaged.
    """
    return Verification(artefact="engine", checks=tuple(packed_checks(file, seconds=seconds)))


def packed_checks(file: bytes, *, seconds: float = HOUR_S) -> Iterator[Check]:
    """The laws on the engine, streams side by side against single ones, the engine against its reference.

    Logits and posteriors are compared, and no difference at all is allowed.
    """
    model = Model(file)
    yield from law_checks(model, "engine", outputs=BOTH, allowed=0.0, seconds=seconds)
    yield compare(
        "engine, side by side",
        f"{SIDE_BY_SIDE} streams side by side against each alone",
        _side_by_side(model),
        _one_by_one(model),
        allowed=0.0,
    )
    reference = ReferenceRunner(packing.from_bytes(file))
    yield compare_runners(
        "engine, reference",
        "engine against its NumPy reference",
        (model, reference),
        EXACT,
        seconds=min(seconds, REFERENCE_S),
    )


def _sounds(model: Model) -> Floats:
    """Other sound for each stream, `(streams, samples)`."""
    sounds = [next(proof_sound(model.sample_rate, seconds=BLOCK_S, seed=seed)) for seed in range(SIDE_BY_SIDE)]
    return np.stack(sounds)


def _side_by_side(model: Model) -> Iterator[Floats]:
    """Logits `(steps, streams · classes)`."""
    streams = model.streams(SIDE_BY_SIDE)
    sounds = _sounds(model)
    ends = np.cumsum([len(chunk) for chunk in random_chunks([sounds[0]], model.sample_rate)])
    for chunk in np.split(sounds, ends[:-1], axis=1):
        outputs = streams.step_logits(np.ascontiguousarray(chunk))
        yield outputs.transpose(1, 0, 2).reshape(outputs.shape[1], SIDE_BY_SIDE * outputs.shape[2])


def _one_by_one(model: Model) -> Iterator[Floats]:
    yield np.concatenate([model.stream().step_logits(sound) for sound in _sounds(model)], axis=1)
