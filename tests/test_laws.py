"""Each law is broken here by a runner that is wrong on purpose, in that way and in no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hark.proof.checks import Check, Floats
from hark.proof.laws import BOTH, POSTERIORS, Listener, law_checks
from hark.runtime import Sound

SECONDS = 60


class Stream:
    """Remembers a sum that fades; a step every 10 samples gives it and how many there were."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.reset()

    def reset(self) -> None:
        self.waiting, self.total, self.calls = np.zeros(0, np.float32), np.float32(0), 0

    def step(self, sound: Sound, /) -> Floats:
        return np.tanh(self.step_logits(sound))

    def step_logits(self, sound: Sound, /) -> Floats:
        self.calls += 1
        samples = np.nan_to_num(np.concatenate([self.waiting, sound]), nan=0, posinf=0, neginf=0)
        pieces = samples[: len(samples) // 10 * 10].reshape(-1, 10)
        self.waiting = samples[pieces.size :]
        sums = []
        for piece in pieces:
            self.total = np.float32(0.5) * self.total + np.float32(np.clip(piece, -1, 1).sum())
            sums.append([self.total, -self.total])
        return np.array(sums, np.float32).reshape(-1, 2)


class DropsASampleBetweenChunks(Stream):
    def step_logits(self, sound: Sound, /) -> Floats:
        return super().step_logits(sound[: -1 if self.calls % 5 == 4 else None])


class LosesAStepOfLongChunks(Stream):
    def step_logits(self, sound: Sound, /) -> Floats:
        steps = super().step_logits(sound)
        return steps[:-1] if 30 < len(steps) < 200 else steps


class GivesNoNumber(Stream):
    def step_logits(self, sound: Sound, /) -> Floats:
        steps = super().step_logits(sound)
        steps[100:101] = np.nan
        return steps


class RemembersAfterAReset(Stream):
    def reset(self) -> None:
        total = getattr(self, "total", np.float32(0))
        super().reset()
        self.total = total


class KeepsSamplesAfterAReset(Stream):
    def reset(self) -> None:
        waiting = getattr(self, "waiting", np.zeros(0, np.float32))
        super().reset()
        self.waiting = waiting


class LeaksIntoOtherStreams(Stream):
    def step_logits(self, sound: Sound, /) -> Floats:
        if self.runner.busy not in (None, self):
            self.total = self.runner.busy.total
        self.runner.busy = self
        return super().step_logits(sound)


class LeaksWhenStreamsTakeTurns(Stream):
    def step_logits(self, sound: Sound, /) -> Floats:
        self.runner.turns = 0 if self.runner.last is self else self.runner.turns + 1
        self.runner.last = self
        self.total += np.float32(self.runner.turns > 9)
        return super().step_logits(sound)


class TiresInTheEnd(Stream):
    def step_logits(self, sound: Sound, /) -> Floats:
        return super().step_logits(sound) * np.float32(1 + (self.calls > 120))


class Runner:
    labels, sample_rate, step_samples, first_step_samples = ("", "word"), 1_000, 10, 10

    def __init__(self, kind: type[Stream] = Stream) -> None:
        self.kind = kind
        self.busy: Any = None
        self.last: Any = None
        self.turns = 0

    def stream(self) -> Stream:
        self.busy, self.turns = None, 0
        return self.kind(self)


def checks_of(kind: type[Stream], **options: Any) -> dict[str, Check]:
    checks = law_checks(Runner(kind), "fake", allowed=0.0, seconds=SECONDS, **options)
    return {check.name.removeprefix("fake, "): check for check in checks}


def test_a_runner_that_keeps_the_laws_passes_them_all() -> None:
    checks = checks_of(Stream)
    assert [*checks] == ["chunks", "reset", "beside", "endless"]
    assert [check.steps for check in checks.values()] == [1_000, 1_000, 1_000, 100 * SECONDS]
    assert all(check.passed for check in checks.values())


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (DropsASampleBetweenChunks, {"chunks", "beside", "endless"}),
        (LosesAStepOfLongChunks, {"chunks", "beside", "endless"}),
        (GivesNoNumber, {"chunks", "reset", "beside", "endless"}),
        (RemembersAfterAReset, {"reset"}),
        (KeepsSamplesAfterAReset, {"reset"}),
        (LeaksIntoOtherStreams, {"chunks", "beside", "endless"}),
        (LeaksWhenStreamsTakeTurns, {"beside"}),
        (TiresInTheEnd, {"endless"}),
    ],
)
def test_each_fault_breaks_the_laws_that_it_must(kind: type[Stream], broken: set[str]) -> None:
    assert {name for name, check in checks_of(kind).items() if not check.passed} == broken


def test_the_first_step_that_differs_is_named() -> None:
    assert checks_of(GivesNoNumber)["reset"].first_differing_step == 100


def test_what_only_logits_show_is_missed_by_posteriors_and_seen_by_both() -> None:
    class Saturates(RemembersAfterAReset):
        def step(self, sound: Sound, /) -> Floats:
            return np.sign(self.step_logits(sound)) * 0

    assert checks_of(Saturates, outputs=POSTERIORS)["reset"].passed
    assert not checks_of(Saturates, outputs=BOTH)["reset"].passed


def test_a_listener_gives_all_outputs_side_by_side() -> None:
    sound = np.linspace(-1, 1, 95, dtype=np.float32)
    both = Listener(Runner(), BOTH).step(sound)
    assert both.shape == (9, 4)
    np.testing.assert_array_equal(both[:, :2], np.tanh(both[:, 2:]))
