"""What a spotter may cost and how well it has to hear, in words: `macs<=18000,bytes<=2000` and `<=1.1x base`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from hark.configuration import in_one_line, named, unknown_key
from hark.errors import ConfigError

LIMITED: Final[Mapping[str, str]] = {
    "macs": "MACs per one-second clip by the convention of thop 0.0.31, front end not counted",
    "macs_per_second": "multiplications per second of stream with a decision at each step, front end counted",
    "bytes": "bytes of the whole .hark file, labels and operating point included",
    "ram": "bytes of memory of one stream on a device of 32 bits",
}
"""What can be limited: all that is known of a network before it is trained."""

_LIMIT = re.compile(r"(\w+)(?:<=|≤)(.+)")
_NUMBER = re.compile(r"(\d[\d_]*(?:\.\d+)?)(k|M)?")
_QUALITY = re.compile(r"(?:<=|≤) *(\d*\.?\d+(?:e-?\d+)?)(x ?base)?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000}


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a network costs, known before it has learned anything."""

    macs: int
    macs_per_second: int
    bytes: int
    ram: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a spotter may cost; None where there is no limit."""

    macs: int | None = None
    macs_per_second: int | None = None
    bytes: int | None = None
    ram: int | None = None

    def __str__(self) -> str:
        return ",".join(f"{name}<={limit}" for name, limit in self.limits.items())

    @property
    def limits(self) -> dict[str, int]:
        """Those that there are."""
        return {entry.name: limit for entry in fields(self) if (limit := getattr(self, entry.name)) is not None}

    def admits(self, price: Price) -> bool:
        """Whether all limits are kept."""
        return all(getattr(price, name) <= limit for name, limit in self.limits.items())

    def excess(self, price: Price) -> float:
        """The worst ratio of a cost to its limit."""
        return max((getattr(price, name) / limit for name, limit in self.limits.items()), default=0.0)


@dataclass(frozen=True)
class Quality:
    """The largest `0.02587 · (1 − AUC)` that is good enough: a number, or a multiple of what the base reaches."""

    limit: float
    of_base: bool

    def __str__(self) -> str:
        return f"<={self.limit:g}{'x base' if self.of_base else ''}"

    def bound(self, base: float) -> float:
        """The limit as a number, given what the base reaches."""
        return self.limit * base if self.of_base else self.limit


def parse_budget(text: str) -> Budget:
    """A budget from words such as `macs<=18.6k,bytes<=2000`.

    Raises:
        ConfigError: it is none; the message names every fault.
    """
    limits: dict[str, int] = {}
    faults: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, limit, fault = _limit(part)
        if not fault and name in limits:
            fault = f"{name} is limited twice"
        faults += [fault] if fault else []
        limits[name] = limit
    if not limits:
        faults.append(f"no limit, expected some of {', '.join(LIMITED)}, such as macs<=18000,bytes<=2000")
    if faults:
        raise ConfigError(f"--budget: {in_one_line(faults)}")
    return Budget(**limits)


def parse_quality(text: str) -> Quality:
    """A quality from words such as `<=1.1x base` or `<=5.5e-5`.

    Raises:
        ConfigError: it is none.
    """
    found = _QUALITY.fullmatch(text.strip())
    if found is None or not float(found[1]) > 0:
        raise ConfigError(f"--quality {named(text)}: expected a bound such as '<=1.1x base' or '<=5.5e-5'")
    return Quality(float(found[1]), of_base=found[2] is not None)


def _limit(part: str) -> tuple[str, int, str]:
    """Name, limit and what is wrong with one part of a budget."""
    found = _LIMIT.fullmatch("".join(part.split()))
    if found is None:
        return part, 0, f"{named(part)}, expected NAME<=NUMBER"
    name, number = found[1], _NUMBER.fullmatch(found[2])
    limit = int(float(number[1].replace("_", "")) * _FACTORS[number[2] or ""]) if number else 0
    if name not in LIMITED:
        return name, limit, unknown_key(name, list(LIMITED)) + f" (there are {', '.join(LIMITED)})"
    return name, limit, "" if limit > 0 else f"{name}<={named(found[2])}, expected a number above 0"
