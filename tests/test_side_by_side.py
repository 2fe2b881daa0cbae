"""Work in processes of their own; tests/test_reproduction.py has signals, deaths and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeds import fail, tell, wait_for
from hark.errors import RunError
from hark.recipes.side_by_side import Deed, do_all


def test_what_a_deed_shows_goes_behind_what_is_in_its_file(tmp_path: Path) -> None:
    output = tmp_path / "workers" / "one.log"
    do_all([Deed("one", tell, ("first",), output=output)], jobs=1)
    do_all([Deed("one", tell, ("second",), output=output)], jobs=1)
    lines = output.read_text().splitlines()
    assert sorted(lines[:2]) == ["stderr: first", "stdout: first"]
    assert sorted(lines[2:]) == ["stderr: second", "stdout: second"]


def test_one_may_look_while_others_work(tmp_path: Path) -> None:
    """What is done meanwhile lets the deed end: were it not called, this would not."""
    do_all(
        [Deed("waits", wait_for, (tmp_path / "seen",))],
        jobs=1,
        meanwhile=(tmp_path / "seen").touch,
        every_s=0.01,
    )


def test_an_error_stops_what_has_not_begun_and_is_raised(tmp_path: Path) -> None:
    output = tmp_path / "never.log"
    with pytest.raises(RunError, match="no luck"):
        do_all([Deed("fails", fail, ("no luck",)), Deed("never", tell, ("?",), output=output)], jobs=1)
    assert not output.exists()
