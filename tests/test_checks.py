from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import chunkings
from hark.configuration import build, known
from hark.errors import VerificationError
from hark.files import from_json, to_json
from hark.proof.checks import BLOCK_STEPS, Check, Floats, Verification, compare

STEPS = 2 * BLOCK_STEPS + 7


def outputs(steps: int = STEPS) -> Floats:
    return np.random.default_rng(0).random((steps, 2), np.float32)


def compared(found: Floats, expected: Floats, *, allowed: float = 0.0) -> Check:
    return compare("a check", "this against that", [found], [expected], allowed=allowed)


@settings(max_examples=40)
@given(data=st.data())
def test_pieces_of_any_lengths_are_compared_step_by_step(data: st.DataObject) -> None:
    steps = outputs()
    a, b = ([*np.split(steps, np.cumsum(data.draw(chunkings(STEPS)))[:-1])] for _ in range(2))
    check = compare("a check", "this against that", a, b, allowed=0.0)
    assert check.passed
    assert (check.steps, check.missing_steps, check.largest_difference) == (STEPS, 0, 0.0)
    assert check.first_differing_step is None


@given(place=st.integers(0, STEPS - 1), side=st.booleans(), apart=st.sampled_from([1e-3, np.nan, np.inf, -np.inf]))
def test_a_difference_is_found_wherever_it_is(place: int, side: bool, apart: float) -> None:
    pair = [outputs(), outputs()]
    pair[side][place, 1] += apart
    check = compared(*pair, allowed=1e-4)
    assert not check.passed
    assert check.first_differing_step == place
    assert check.largest_difference == (pytest.approx(1e-3, rel=1e-3) if apart == 1e-3 else np.inf)


def test_a_difference_up_to_the_allowed_one_is_none_and_still_told() -> None:
    check = compared(np.float32([[0.5], [0.75]]), np.float32([[0.5], [0.5]]), allowed=0.25)
    assert check.passed
    assert (check.largest_difference, check.first_differing_step) == (0.25, None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_agrees_with_nothing_not_even_itself(value: float) -> None:
    steps = outputs()
    steps[3] = value
    check = compared(steps, steps.copy(), allowed=1e9)
    assert not check.passed
    assert (check.largest_difference, check.first_differing_step) == (np.inf, 3)


@pytest.mark.parametrize("missing", [1, BLOCK_STEPS, STEPS])
@pytest.mark.parametrize("order", [1, -1])
def test_missing_steps_are_a_difference_on_whichever_side(missing: int, order: int) -> None:
    check = compared(*[outputs(), outputs()[: STEPS - missing]][::order])
    assert not check.passed
    assert (check.steps, check.missing_steps) == (STEPS - missing, missing)
    assert check.first_differing_step == STEPS - missing


def test_what_compares_nothing_shows_nothing() -> None:
    check = compared(outputs(0), outputs(0), allowed=1.0)
    assert not check.passed
    assert check.fault == "this against that: no steps at all"
    assert not Verification(artefact="model", checks=()).passed


def test_outputs_are_made_as_they_are_needed() -> None:
    made = [0, 0]

    def pieces(side: int) -> Iterator[Floats]:
        for _ in range(10):
            assert made[side] <= made[1 - side] + 1
            made[side] += 1
            yield outputs(BLOCK_STEPS)

    assert compare("a check", "this against that", pieces(0), pieces(1), allowed=0.0).steps == 10 * BLOCK_STEPS


def test_a_verification_comes_back_from_its_file() -> None:
    wrong = outputs()
    wrong[5] = np.nan
    verification = Verification(artefact="model", checks=(compared(outputs(), wrong), compared(wrong, wrong[:9])))
    values = from_json(to_json(verification.as_dict()))
    assert build(Verification, known(Verification, values), where="file") == verification
    assert [values["passed"], *(check["passed"] for check in values["checks"])] == [False] * 3


def test_a_verification_passes_with_all_its_checks_and_only_then() -> None:
    right = compared(outputs(), outputs())
    wrong = replace(right, name="another", largest_difference=0.5, first_differing_step=12)
    Verification(artefact="word.hark", checks=(right, right)).require()
    failed = Verification(artefact="word.hark", checks=(right, wrong))
    assert not failed.passed
    message = (
        r"word\.hark: 1 of 2 checks failed, the first: this against that: 5\.0e-01 apart over 1,031 steps, "
        r"from step 12 on, expected at most 0e\+00; do not ship it"
    )
    with pytest.raises(VerificationError, match=message):
        failed.require()
    with pytest.raises(VerificationError, match="no checks, expected at least one"):
        Verification(artefact="word.hark", checks=()).require()


def test_steps_on_one_side_only_are_told() -> None:
    check = compared(outputs(), outputs()[:-2])
    assert "over 1,031 steps, 2 of them on one side only, from step 1029 on" in check.fault
    assert asdict(check)["missing_steps"] == 2
