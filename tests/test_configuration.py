"""Plain values become typed configurations: nothing is converted, guessed or evaluated; every fault is told."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hark.configuration import LARGEST_INTEGER, LONGEST_SHOWN, MOST_FAULTS, build, is_text, named, shown
from hark.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Room:
    """A configuration within another."""

    size_m: tuple[float, float] = (3.0, 4.0)
    doors: int = 1

    def __post_init__(self) -> None:
        if self.doors < 1:
            raise ConfigError(f"room: doors is {self.doors}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class House:
    """A field of each kind that there is."""

    name: str
    style: Literal["old", "new"] = "new"
    floors: int = 2
    price: float = 1.0
    heated: bool = True
    rooms: tuple[str, ...] = ()
    number: int | None = None
    hall: Room = dataclasses.field(default_factory=Room)
    roof: Literal["flat", "steep"] | Room = "flat"


FULL: dict[str, Any] = {
    "name": "mine",
    "style": "old",
    "floors": 3,
    "price": 2,
    "heated": False,
    "rooms": ["kitchen", "bath"],
    "number": 7,
    "hall": {"size_m": [5, 6.5], "doors": 2},
    "roof": {"doors": 1},
}


def house(**changes: Any) -> House:
    """A house with some values changed."""
    return build(House, FULL | changes, where="house")


def fault(**changes: Any) -> str:
    """What is said against a house."""
    with pytest.raises(ConfigError) as caught:
        house(**changes)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_values_become_what_the_fields_say() -> None:
    built = house()
    assert built == House(
        name="mine",
        style="old",
        floors=3,
        price=2.0,
        heated=False,
        rooms=("kitchen", "bath"),
        number=7,
        hall=Room(size_m=(5.0, 6.5), doors=2),
        roof=Room(doors=1),
    )
    assert isinstance(built.price, float)


def test_what_is_left_out_has_its_default() -> None:
    assert build(House, {"name": "mine"}, where="house") == House(name="mine")
    with pytest.raises(ConfigError, match=r"^house: no name, expected text$"):
        build(House, {}, where="house")


@given(
    name=st.text().filter(is_text),
    floors=st.integers(1 - LARGEST_INTEGER, LARGEST_INTEGER - 1),
    price=st.floats(allow_nan=False),
    rooms=st.lists(st.text(max_size=3).filter(is_text)),
    number=st.none() | st.integers(0, 9),
)
def test_a_configuration_comes_back_from_its_plain_values(**values: Any) -> None:
    built = build(House, values, where="house")
    plain = dataclasses.asdict(built)
    assert build(House, plain, where="house") == built
    assert {key: plain[key] for key in values} == {**values, "rooms": tuple(values["rooms"])}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"floors": "3"}, "house.floors is '3', expected a whole number"),
        ({"floors": 3.0}, "house.floors is 3.0, expected a whole number"),
        ({"floors": True}, "house.floors is True, expected a whole number"),
        ({"floors": 2**63}, "house.floors is 9223372036854775808, expected one below 2^63"),
        pytest.param({"floors": 10**5000}, "house.floors is a huge int, expected one below 2^63", id="huge"),
        ({"price": math.nan}, "house.price is nan, expected a number"),
        ({"price": "1e999"}, "house.price is '1e999', expected a number"),
        ({"price": True}, "house.price is True, expected a number"),
        ({"price": -(10**400)}, "house.price is -1000"),
        ({"heated": 1}, "house.heated is 1, expected true or false"),
        ({"name": None}, "house.name is None, expected text"),
        ({"name": b"mine"}, "house.name is b'mine', expected text"),
        ({"name": "a\0b"}, r"house.name is 'a\x00b', expected text"),
        ({"name": "\ud800"}, r"house.name is '\ud800', expected text"),
        ({"style": "newer"}, "house.style is 'newer', expected old or new"),
        ({"style": ["new"]}, "house.style is ['new'], expected old or new"),
        ({"number": "7"}, "house.number is '7', expected a whole number"),
        ({"rooms": "kitchen"}, "house.rooms is 'kitchen', expected a list, each text"),
        ({"rooms": ["kitchen", 5]}, "house.rooms.1 is 5, expected text"),
        ({"rooms": {"kitchen": 1}}, "house.rooms is {'kitchen': 1}, expected a list, each text"),
        ({"hall": 5}, "house.hall is 5, expected a table"),
        ({"hall": {"size_m": [1]}}, "house.hall.size_m is [1], expected a list of 2, each a number"),
        ({"hall": {"size_m": [1, None]}}, "house.hall.size_m.1 is None, expected a number"),
        ({"hall": {"doors": 0}}, "house: room: doors is 0, expected at least 1"),
        ({"roof": "step"}, "house.roof is 'step', expected flat or steep or a table"),
        ({"roof": {"doors": "x"}}, "house.roof.doors is 'x', expected a whole number"),
        ({"flors": 3}, "unknown key house.flors, did you mean house.floors?"),
        ({"hall": {"door": 3}}, "unknown key house.hall.door, did you mean house.hall.doors?"),
        ({"xyz": 3}, "unknown key house.xyz"),
        ({"\x1b[2J": 3}, r"unknown key house.'\x1b[2J'"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place_and_what_would(changes: dict[str, Any], said: str) -> None:
    assert fault(**changes).startswith(said)


def test_the_message_has_nothing_but_hark_s_own_words() -> None:
    assert fault(roof="step", floors="3", flors=1) == (
        "unknown key house.flors, did you mean house.floors?; house.floors is '3', expected a whole number; "
        "house.roof is 'step', expected flat or steep or a table"
    )


@pytest.mark.parametrize("values", [None, 5, "name", ["name"]])
def test_what_is_no_table_is_no_configuration(values: object) -> None:
    with pytest.raises(ConfigError, match=r"^house is .*, expected a table$"):
        build(House, values, where="house")


def test_of_very_many_faults_the_first_are_told() -> None:
    said = fault(rooms=list(range(5000)))
    assert said.count("expected text") == MOST_FAULTS
    assert said.endswith("; and 4,990 more")


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


def test_any_value_is_shown_within_a_line() -> None:
    for value in ("x" * 10**6, "\n" * 99, "\x1b[31m", "\ud800", 10**5000, DEEP, [DEEP], {"a": "b" * 99}):
        text = shown(value)
        assert len(text) <= LONGEST_SHOWN
        assert text.isprintable()


def test_a_name_is_shown_bare_where_that_is_harmless() -> None:
    assert named("epochs") == "epochs"
    assert named("a\nb") == r"'a\nb'"
    assert len(named("a" * 1000)) == LONGEST_SHOWN
