"""F11: whatever bytes a parser of hark is given, it takes them or refuses them in one line."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import BORDERS, ODD, SCALAR
from parsers import PARSERS

from peak_memory import allocating_at_most

MOST_BYTES = 256 << 20
EXAMPLES = 60


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """An example with a few changes: bits, numbers at their borders, cuts, repetitions, other values."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        data = draw(st.sampled_from((_bits, _number, _cut, _repeat, _value, _value)))(draw, data)
    return data


def _bits(draw: st.DrawFn, data: bytes) -> bytes:
    return _put(draw, data, draw(st.binary(min_size=1, max_size=4)))


def _number(draw: st.DrawFn, data: bytes) -> bytes:
    size, order = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(("little", "big")))
    number = draw(st.sampled_from(BORDERS)) % (1 << 8 * size)
    return _put(draw, data, number.to_bytes(size, order))


def _put(draw: st.DrawFn, data: bytes, new: bytes) -> bytes:
    place = draw(st.integers(0, len(data)))
    return data[:place] + new + data[place + len(new) :]


def _cut(draw: st.DrawFn, data: bytes) -> bytes:
    start, end = _span(draw, data)
    return data[:start] + data[end:]


def _repeat(draw: st.DrawFn, data: bytes) -> bytes:
    start, end = _span(draw, data)
    return data[:end] + data[start:end] * draw(st.integers(1, 3)) + data[end:]


def _span(draw: st.DrawFn, data: bytes) -> tuple[int, int]:
    place = st.integers(0, len(data))
    start, end = sorted((draw(place), draw(place)))
    return start, end


def _value(draw: st.DrawFn, data: bytes) -> bytes:
    """Another value in the place of one, where there are any."""
    found = list(SCALAR.finditer(data))
    if not found:
        return _bits(draw, data)
    old = found[draw(st.integers(0, len(found) - 1))]
    return data[: old.start()] + draw(st.sampled_from(ODD)) + data[old.end() :]


@pytest.mark.parametrize("name", PARSERS)
def test_what_it_is_for_is_taken(name: str, tmp_path: Path) -> None:
    """So that what follows begins with something that gets far."""
    for number, seed in enumerate(PARSERS[name].seeds()):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert PARSERS[name].takes(seed, folder)


@pytest.mark.fault("F11")
def test_any_bytes_are_taken_or_refused_in_one_line(
    tmp_path: Path, subtests: pytest.Subtests, record_property: Callable[[str, object], None]
) -> None:
    counts = {True: 0, False: 0}
    for name, parser in PARSERS.items():

        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
        @given(data=st.binary(max_size=64) | mutated(tuple(parser.seeds())))
        def law(data: bytes) -> None:
            with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
                counts[parser.takes(data, Path(folder))] += 1  # noqa: B023 (called within the turn)

        with subtests.test(name), allocating_at_most(MOST_BYTES):
            law()
    record_property(
        "outcome",
        f"of {sum(counts.values()):,} mutated inputs to {len(PARSERS)} parsers {counts[True]:,} were taken and "
        f"{counts[False]:,} refused in one line, none with more than {MOST_BYTES >> 20} MiB",
    )
