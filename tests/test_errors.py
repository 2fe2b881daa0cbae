"""Errors are one line each, whatever went into their words, and each kind has its exit code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hark import errors
from hark.errors import HarkError, Interrupted


def kinds(kind: type[HarkError] = HarkError) -> Iterator[type[HarkError]]:
    """An error and all below it."""
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind is not Interrupted])
@given(name=st.text())
def test_a_message_is_one_line_that_a_terminal_does_not_obey(kind: type[HarkError], name: str) -> None:
    """Names of files and keys come from anywhere."""
    told = str(kind(f"{name}: expected another"))
    assert told.isprintable()
    assert len(told) == len(f"{name}: expected another")


def test_plain_words_stay_as_they_are() -> None:
    assert str(HarkError("dög.wav:  44100 Hz, expected 16000 Hz")) == "dög.wav:  44100 Hz, expected 16000 Hz"


def test_every_kind_is_drawn_in_the_tree_with_its_exit_code() -> None:
    tree = [line.lstrip("│├└─ ").split() for line in str(errors.__doc__).splitlines()]
    drawn = {words[0]: words[1:3] for words in tree if words[1:2] == ["exit"]}
    named = {
        kind.__name__: ["exit", str(kind.exit_code)] for kind in kinds() if kind.__module__ == errors.__name__
    }
    named["Interrupted"] = ["exit", "130"]
    assert drawn == named
