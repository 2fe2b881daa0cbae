"""Plain values, as JSON and TOML give them, become typed configurations: every fault at once, nothing evaluated.

A configuration is a frozen dataclass of numbers, text, choices, lists and further configurations. No value is
converted but a whole number where a fraction may stand: a number as text is a fault, and so is a key that
nothing reads.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from hark.errors import ConfigError

T = TypeVar("T")

LARGEST_INTEGER = 2**63
LONGEST_SHOWN = 60
MOST_FAULTS = 10


def build(kind: type[T], values: object, *, where: str) -> T:
    """The configuration `kind` from plain values.

    Args:
        kind: a dataclass whose fields are numbers, text, `Literal`s, tuples, tables of anything (`dict`),
            dataclasses, or a choice of these.
        values: a mapping, lists and mappings within it.
        where: what the message calls it, such as `stages.base`.

    Raises:
        ConfigError: it is not valid; the message names every fault.
    """
    faults: list[str] = []
    try:
        built = _built(kind, values, where, faults)
    except ConfigError as error:  # what the configuration itself has against its values
        faults.append(f"{where}: {error}")
    if faults:
        raise ConfigError(in_one_line(faults))
    return typing.cast("T", built)


def known(kind: Any, values: object) -> object:
    """`values` without the keys that the configuration `kind` does not have: of a file that may say more."""
    if dataclasses.is_dataclass(kind) and isinstance(values, Mapping):
        hints = typing.get_type_hints(kind)
        return {key: known(hints[key], value) for key, value in values.items() if key in hints}
    if get_origin(kind) is tuple and isinstance(values, list):
        return [known(get_args(kind)[0], value) for value in values]
    return values


def shown(value: object) -> str:
    """A value for a message: never longer than a line, and nothing in it that a terminal would obey."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # too many digits, nested too deeply
        return f"a huge {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def named(name: str) -> str:
    """A name for a message, bare where that is harmless."""
    return name if name.isprintable() and len(name) <= LONGEST_SHOWN else shown(name)


def unknown_key(key: str, known: Sequence[str], *, where: str = "") -> str:
    """The fault of a key that nothing reads, with the nearest that something does."""
    prefix = f"{where}." if where else ""
    near = difflib.get_close_matches(key[:LONGEST_SHOWN], known, n=1, cutoff=0.5)
    return f"unknown key {prefix}{named(key)}" + (f", did you mean {prefix}{near[0]}?" if near else "")


def in_one_line(faults: Sequence[str]) -> str:
    """The faults for a message; only the first of very many."""
    told = list(dict.fromkeys(faults))
    rest = f"; and {len(told) - MOST_FAULTS:,} more" if len(told) > MOST_FAULTS else ""
    return " ".join(("; ".join(told[:MOST_FAULTS]) + rest).split())


def is_text(value: object) -> bool:
    """Whether this is text that can be written to any file: no half characters, no NUL."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _built(kind: Any, value: object, place: str, faults: list[str]) -> object:
    """`value` as the type `kind`, or None with a fault more on the list."""
    fitting = [each for each in _choices(kind) if _fits(each, value)]
    if not fitting:
        too_big = isinstance(value, int) and abs(value) >= LARGEST_INTEGER
        expected = "one below 2^63" if too_big else _in_words(kind)
        faults.append(f"{place} is {shown(value)}, expected {expected}")
        return None
    kind = fitting[0]
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _configuration(typing.cast("type", kind), value, place, faults)
    if isinstance(value, list | tuple):
        parts = zip(_items(kind, len(value)), value, strict=True)
        return tuple(_built(item, part, f"{place}.{i}", faults) for i, (item, part) in enumerate(parts))
    return float(typing.cast("float", value)) if kind is float else value


def _configuration(kind: type, values: Mapping[str, object], place: str, faults: list[str]) -> object:
    hints, fields = typing.get_type_hints(kind), {field.name: field for field in dataclasses.fields(kind)}
    before = len(faults)
    faults += [unknown_key(key, [*fields], where=place) for key in values if key not in fields]
    built = {}
    for name, field in fields.items():
        if name in values:
            try:
                built[name] = _built(hints[name], values[name], f"{place}.{name}", faults)
            except ConfigError as error:
                faults.append(f"{place}: {error}")
        elif field.default is field.default_factory is dataclasses.MISSING:
            faults.append(f"{place}: no {name}, expected {_in_words(hints[name])}")
    return kind(**built) if len(faults) == before else None


def _choices(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _items(kind: Any, count: int) -> tuple[Any, ...]:
    """The types of a list's items, by the tuple that it is to become."""
    items = get_args(kind)
    return items[:1] * count if items[-1] is ... else items


def _fits(kind: Any, value: object) -> bool:
    """Whether a value is of a type; of tables and lists not yet whether what they hold is."""
    if dataclasses.is_dataclass(kind):
        return isinstance(value, Mapping)
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and len(_items(kind, len(value))) == len(value)
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    return _PLAIN[get_origin(kind) or kind][1](value)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        items = get_args(kind)
        count = "" if items[-1] is ... else f" of {len(items)}"
        return f"a list{count}, each {_in_words(items[0])}"
    if len(_choices(kind)) > 1:
        return " or ".join(_in_words(each) for each in _choices(kind) if each is not types.NoneType)
    return "a table" if dataclasses.is_dataclass(kind) else _PLAIN[get_origin(kind) or kind][0]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_INTEGER


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and not math.isnan(value))


# What each plain type is called, and whether a value is of it.
_PLAIN: dict[Any, tuple[str, Callable[[object], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", _is_whole),
    float: ("a number", _is_number),
    str: ("text", is_text),
    dict: ("a table", lambda value: isinstance(value, Mapping)),
    types.NoneType: ("nothing", lambda value: value is None),
}
