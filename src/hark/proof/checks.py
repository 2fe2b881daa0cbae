"""What a proof says: outputs that must agree, compared step by step, and the verdict on each pair."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hark.errors import VerificationError

Floats: TypeAlias = npt.NDArray[np.float32]

BLOCK_STEPS = 512


@dataclass(frozen=True, kw_only=True)
class Check:
    """Two ways to the same outputs, and how far they were apart."""

    name: str
    compared: str
    """What with what, in words."""
    steps: int
    """How many both gave."""
    missing_steps: int
    """How many only one of them gave."""
    largest_difference: float
    """Infinite where either gave something that is not a number."""
    allowed: float
    first_differing_step: int | None
    """The first that is further apart than allowed, or that only one gave; from 0."""

    @property
    def passed(self) -> bool:
        """Whether they agree; what compared nothing has shown nothing."""
        return self.steps > 0 and self.missing_steps == 0 and self.largest_difference <= self.allowed

    @property
    def fault(self) -> str:
        """What is wrong, in words, where it has not passed."""
        steps = self.steps + self.missing_steps
        if not steps:
            return f"{self.compared}: no steps at all"
        lacking = f", {self.missing_steps:,} of them on one side only" if self.missing_steps else ""
        return (
            f"{self.compared}: {self.largest_difference:.1e} apart over {steps:,} steps{lacking}, "
            f"from step {self.first_differing_step} on, expected at most {self.allowed:.0e}"
        )


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All checks of one artefact."""

    artefact: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check has passed, and there were any."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """`verification.json`: the checks and their verdicts as plain values."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {"artefact": self.artefact, "passed": self.passed, "checks": checks}

    def require(self) -> None:
        """Go on only where all is proved.

        Raises:
            VerificationError: a check has failed; the message tells how many, and of the first what and where.
        """
        failed = [check for check in self.checks if not check.passed]
        if failed:
            number = f"{len(failed)} of {len(self.checks)} checks failed"
            raise VerificationError(f"{self.artefact}: {number}, the first: {failed[0].fault}; do not ship it")
        if not self.checks:
            raise VerificationError(f"{self.artefact}: no checks, expected at least one")


def compare(
    name: str, compared: str, found: Iterable[Floats], expected: Iterable[Floats], *, allowed: float
) -> Check:
    """Compare two streams of outputs, each in pieces `(steps, values)` of its own lengths, in constant memory.

    The pieces are made as they are needed, so that an hour of them costs no more memory than a second.
    """
    steps = missing = 0
    largest, first_differing = 0.0, None
    for a, b in zip_longest(_evened(found), _evened(expected)):
        both = 0 if a is None or b is None else min(len(a), len(b))
        longer = max(0 if x is None else len(x) for x in (a, b))
        differences = _differences(a, b, both)
        largest = max(largest, float(differences.max(initial=0.0)))
        if first_differing is None and (not (differences <= allowed).all() or both < longer):
            far = np.flatnonzero(differences > allowed)
            first_differing = steps + (int(far[0]) if len(far) else both)
        steps, missing = steps + both, missing + longer - both
    return Check(
        name=name,
        compared=compared,
        steps=steps,
        missing_steps=missing,
        largest_difference=largest,
        allowed=allowed,
        first_differing_step=first_differing,
    )


def _differences(a: Floats | None, b: Floats | None, steps: int) -> npt.NDArray[np.float64]:
    """The largest of each step, `(steps,)`."""
    if a is None or b is None or not steps:
        return np.zeros(0)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a[:steps].astype(np.float64) - b[:steps])
    largest: npt.NDArray[np.float64] = np.where(np.isnan(apart), math.inf, apart).max(axis=1)
    return largest


def _evened(pieces: Iterable[Floats]) -> Iterator[Floats]:
    """The same steps in blocks of `BLOCK_STEPS`, the last one shorter."""
    waiting: list[Floats] = []
    for piece in filter(len, pieces):
        waiting.append(piece)
        if sum(map(len, waiting)) >= BLOCK_STEPS:
            joined = np.concatenate(waiting)
            for start in range(0, len(joined) - BLOCK_STEPS + 1, BLOCK_STEPS):
                yield joined[start : start + BLOCK_STEPS]
            waiting = [joined[len(joined) // BLOCK_STEPS * BLOCK_STEPS :]]
    if rest := [*filter(len, waiting)]:
        yield np.concatenate(rest)
