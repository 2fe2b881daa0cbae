"""The laws that every runner keeps, whatever it runs on.

Outputs depend on what was heard and on nothing else: not on how it came in chunks, not on what was heard before a
reset, not on another stream beside, not on how long it has gone on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import numpy as np

from hark.proof.checks import Check, Floats, compare
from hark.proof.trial_sound import BLOCK_S, proof_sound, random_chunks
from hark.runtime import Runner

Outputs: TypeAlias = tuple[Literal["step", "step_logits"], ...]
"""The methods of a stream whose outputs are compared."""
POSTERIORS: Outputs = ("step",)
LOGITS: Outputs = ("step_logits",)
BOTH: Outputs = ("step", "step_logits")

EVEN_CHUNKS = 23
OTHER_SOUND = 1
"""A seed."""


def law_checks(
    runner: Runner, name: str, *, outputs: Outputs = POSTERIORS, allowed: float, seconds: float
) -> Iterator[Check]:
    """Hold a runner to the laws, on the sound of `proof_sound`; each check is made when it is asked for.

    Args:
        runner: what is tried.
        name: what the checks call it.
        outputs: what is compared; logits tell more, for posteriors saturate.
        allowed: the largest difference that counts as none.
        seconds: how much the last check hears; the others hear 10 s.
    """
    sound = next(proof_sound(runner.sample_rate, seconds=BLOCK_S))

    def check(law: str, compared: str, found: Iterator[Floats], expected: Iterator[Floats]) -> Check:
        return compare(f"{name}, {law}", f"{name} {compared}", found, expected, allowed=allowed)

    def one_call() -> Iterator[Floats]:
        yield Listener(runner, outputs).step(sound)

    yield check("chunks", "in random chunks against one call", _in_chunks(runner, outputs, [sound]), one_call())
    yield check(
        "reset",
        "after other sound and a reset against a new stream",
        _after_reset(runner, outputs, sound),
        one_call(),
    )
    yield check("beside", "beside another stream against alone", _beside(runner, outputs, sound), one_call())
    yield check(
        "endless",
        f"over {seconds:,.0f} s in random chunks against blocks of {BLOCK_S} s",
        _in_chunks(runner, outputs, proof_sound(runner.sample_rate, seconds=seconds)),
        Listener(runner, outputs).hear(proof_sound(runner.sample_rate, seconds=seconds)),
    )


class Listener:
    """Streams of one runner that hear the same sound, one for each output, which they give side by side."""

    def __init__(self, runner: Runner, outputs: Outputs) -> None:
        self._streams = [(runner.stream(), output) for output in outputs]

    def step(self, sound: Floats) -> Floats:
        """Hears more sound `(samples,)`; gives `(steps, values)`."""
        heard: list[Floats] = [getattr(stream, output)(sound) for stream, output in self._streams]
        return heard[0] if len(heard) == 1 else np.concatenate(heard, axis=1)

    def hear(self, pieces: Iterable[Floats]) -> Iterator[Floats]:
        """Hears one piece after the other, each when its outputs are asked for."""
        return map(self.step, pieces)

    def reset(self) -> None:
        """All streams begin anew."""
        for stream, _ in self._streams:
            stream.reset()


def _in_chunks(runner: Runner, outputs: Outputs, blocks: Iterable[Floats]) -> Iterator[Floats]:
    return Listener(runner, outputs).hear(random_chunks(blocks, runner.sample_rate))


def _after_reset(runner: Runner, outputs: Outputs, sound: Floats) -> Iterator[Floats]:
    """Resets when three seconds and a sample have left something in every buffer."""
    listener = Listener(runner, outputs)
    rate = runner.sample_rate
    for before in proof_sound(rate, seconds=3 + 1 / rate, seed=OTHER_SOUND):
        listener.step(before)
    listener.reset()
    yield listener.step(sound)


def _beside(runner: Runner, outputs: Outputs, sound: Floats) -> Iterator[Floats]:
    """What one stream gives while another hears something else, chunk by chunk in turns."""
    rate = runner.sample_rate
    heard, beside = Listener(runner, outputs), Listener(runner, outputs)
    other = next(proof_sound(rate, seconds=BLOCK_S, seed=OTHER_SOUND))
    for chunk, other_chunk in zip(_even_chunks(sound), _even_chunks(other), strict=True):
        beside.step(other_chunk)
        yield heard.step(chunk)


def _even_chunks(sound: Floats) -> list[Floats]:
    return np.array_split(sound, EVEN_CHUNKS)
