"""What a set of runs has shown, as typed tables: settings over folds, factors, fronts and differences.

A study reads runs and nothing else, so whatever it says can be traced to a file in a run directory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hark.errors import UsageError
from hark.judging.metrics import (
    Interval,
    PairedDifference,
    alarm_rate_interval,
    alarm_statement,
    paired_difference,
)
from hark.record.runs import Run
from hark.showing.reference_report import BAR
from hark.showing.results import Costs, Result, Setting, read

COMPARED_WITH_PARENT = ("quantize", "quantize-aware", "prune")
_FIRST_GROUPS = ("ours", "reference")


@dataclass(frozen=True)
class Factors:
    """How many times smaller than the base of its group a setting is."""

    macs: float
    parameters: float
    bytes: float


@dataclass(frozen=True)
class Difference:
    """The metric of a setting less that of what it was made from, fold by fold, in 1e-5."""

    setting: Setting
    parent: str
    paired: PairedDifference

    @property
    def verdict(self) -> str:
        """What the interval proves, in words."""
        if self.paired.low > 0:
            return "worse"
        return "better" if self.paired.high < 0 else "no difference shown"


@dataclass(frozen=True)
class Damage:
    """1 − AUC of a pruned model without any fine-tuning, for each fold and share."""

    name: str
    group: str
    shares: tuple[float, ...]
    row_wise: tuple[tuple[float, ...], ...]
    unit_wise: tuple[tuple[float, ...], ...]

    @property
    def means(self) -> list[tuple[float, float, float]]:
        """Share, 1 − AUC by row and by unit, averaged over folds."""
        by_row, by_unit = (
            [math.fsum(column) / len(column) for column in zip(*folds, strict=True)]
            for folds in (self.row_wise, self.unit_wise)
        )
        return list(zip(self.shares, by_row, by_unit, strict=True))


@dataclass(frozen=True)
class Streamed:
    """One setting on an endless stream, summed over folds."""

    setting: Setting
    hours: float
    words: int
    misses_reset: int
    misses_carried: int
    alarms: int

    @property
    def more_missed(self) -> float | None:
        """Percentage points missed more when the state is carried; None without words."""
        return 100 * (self.misses_carried - self.misses_reset) / self.words if self.words else None

    @property
    def interval(self) -> Interval:
        """Alarms per hour, 95 %."""
        return alarm_rate_interval(self.alarms, self.hours)

    @property
    def statement(self) -> str:
        """What the count of alarms proves."""
        return alarm_statement(self.alarms, self.hours)


@dataclass(frozen=True, eq=False)
class Study:
    """All that the given runs have shown."""

    results: tuple[Result, ...]
    settings: tuple[Setting, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups there are: ours, the reference's recipe, any others."""
        return tuple(dict.fromkeys(setting.group for setting in self.settings))

    @property
    def judged(self) -> tuple[Setting, ...]:
        """The settings of which both costs and metric are known."""
        return tuple(s for s in self.settings if s.costs is not None and s.metric is not None)

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds of any run."""
        return tuple(sorted({result.fold for result in self.results}))

    def base_of(self, group: str) -> Setting | None:
        """What a group is measured against: its first setting called base, else its first."""
        known = [s for s in self.settings if s.group == group and s.costs is not None]
        return min(known, key=lambda s: (not s.name.startswith("base"), s.order), default=None)

    def factors(self, setting: Setting) -> Factors | None:
        """How many times smaller than its base a setting is; None without costs."""
        base = self.base_of(setting.group)
        if base is None or base.costs is None or setting.costs is None:
            return None
        return Factors(
            macs=base.costs.macs_per_clip / setting.costs.macs_per_clip,
            parameters=base.costs.parameters / setting.costs.parameters,
            bytes=base.costs.file_bytes / setting.costs.file_bytes,
        )

    @property
    def smallest(self) -> Setting | None:
        """The setting with the smallest file whose mean metric is within the bar: ours, if there is one."""
        within = [s for s in self.judged if s.metric and s.metric[0] <= BAR]
        return min(within, key=lambda s: (s.group != "ours", *_size(s)), default=None)

    @cached_property
    def differences(self) -> tuple[Difference, ...]:
        """Every quantised setting against its float parent and every pruned one against its unpruned one."""
        found = (self._difference(s) for s in self.settings if s.kind in COMPARED_WITH_PARENT)
        return tuple(difference for difference in found if difference is not None)

    @cached_property
    def streamed(self) -> tuple[Streamed, ...]:
        """The settings that were judged on an endless stream."""
        return tuple(s for s in map(_streamed, self.settings) if s is not None)

    @cached_property
    def chunk_differences(self) -> dict[Setting, dict[int, float]]:
        """By setting and chunk size in frames: the largest difference between stream and offline output."""
        table: dict[Setting, dict[int, float]] = {}
        for setting in self.settings:
            for result in setting.results:
                for chunk in result.check_stream["chunks"] if result.check_stream else ():
                    row = table.setdefault(setting, {})
                    frames, found = int(chunk["chunk_frames"]), float(chunk["largest_difference"])
                    row[frames] = max(found, row.get(frames, 0.0))
        return table

    @cached_property
    def damage(self) -> tuple[Damage, ...]:
        """What pruning without fine-tuning does to each model it was tried on."""
        table: dict[tuple[str, str, tuple[float, ...]], list[Result]] = {}
        for result in self.results:
            if result.pruning_damage is not None:
                damaged = self._parent(result) or result
                shares = tuple(result.pruning_damage["shares"])
                key = damaged.setting or damaged.name, damaged.group, shares
                table.setdefault(key, []).append(result)
        return tuple(
            Damage(*key, *(_stacked(results, way) for way in ("row_wise", "unit_wise")))
            for key, results in table.items()
        )

    def summary(self) -> dict[str, Any]:
        """The report's numbers as plain values, for machines."""
        return {
            "folds": list(self.folds),
            "runs": len(self.results),
            "bar": BAR,
            "smallest": self.smallest.name if self.smallest else None,
            "settings": [self._row(setting) for setting in self.settings],
            "differences": [
                {"setting": d.setting.name, "group": d.setting.group, "parent": d.parent}
                | {"mean": d.paired.mean, "interval": [d.paired.low, d.paired.high], "verdict": d.verdict}
                for d in self.differences
            ],
            "streams": [
                {"setting": s.setting.name, "group": s.setting.group, "words": s.words, "hours": s.hours}
                | {"misses_reset": s.misses_reset, "misses_carried": s.misses_carried}
                | {"alarms": s.alarms, "alarms_per_hour": [*s.interval], "statement": s.statement}
                for s in self.streamed
            ],
        }

    def _row(self, setting: Setting) -> dict[str, Any]:
        row: dict[str, Any] = {"setting": setting.name, "group": setting.group, "kind": setting.kind}
        row |= {"runs": [result.name for result in setting.results]}
        row |= {"metric": setting.metric, "one_minus_auc": setting.one_minus_auc}
        if setting.costs is not None:
            row |= {name: getattr(setting.costs, name) for name in Costs.FIGURES}
        if (factors := self.factors(setting)) is not None:
            row |= {"factors": vars(factors)}
        return row

    def _difference(self, setting: Setting) -> Difference | None:
        parents = {result: self._parent(result) for result in setting.results if result.evaluation}
        pairs: dict[int, tuple[float, float]] = {}
        for result, parent in parents.items():
            if parent is not None and result.evaluation and parent.evaluation:
                both = (result.evaluation, parent.evaluation)
                a, b = (1e5 * float(evaluation["at_reference_prior"]) for evaluation in both)
                pairs[result.fold] = (a, b)
        if len(pairs) < 2:
            return None
        parent_name = next(p.setting or p.name for p in parents.values() if p is not None)
        mine, theirs = zip(*pairs.values(), strict=True)
        return Difference(setting, parent_name, paired_difference(mine, theirs))

    def _parent(self, result: Result) -> Result | None:
        """The run that is named first among the parents; teachers are named after it."""
        return self._by_place.get((result.home, result.parents[0])) if result.parents else None

    @cached_property
    def _by_place(self) -> dict[tuple[str, str], Result]:
        return {(result.home, result.name): result for result in self.results}


def collect(runs: Sequence[Run]) -> Study:
    """Read runs into a study.

    Raises:
        UsageError: there are none.
        RunError: a file of a run is damaged; the message names it.
    """
    if not runs:
        raise UsageError("no runs found, expected folders with run.json in or below them; try: hark runs DIR")
    results = tuple(sorted(map(read, runs), key=lambda result: (result.order, result.fold, result.name)))
    grouped: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result.setting is not None:
            grouped.setdefault((result.group, result.setting), []).append(result)
    settings = (
        Setting(name=name, group=group, order=min(r.order for r in many), results=tuple(many))
        for (group, name), many in grouped.items()
    )
    return Study(results, tuple(sorted(settings, key=lambda s: (*_rank(s.group), s.order, s.name))))


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, metric) that no other beats in one figure without losing in the other; by cost."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _totals(items: Iterable[Mapping[str, Any]], *names: str) -> tuple[int, ...]:
    """The sums of some counts over several JSON objects."""
    many = list(items)
    return tuple(sum(int(item[name]) for item in many) for name in names)


def _stacked(results: Sequence[Result], way: str) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(result.pruning_damage[way]) for result in results if result.pruning_damage)


def _streamed(setting: Setting) -> Streamed | None:
    streams = [result.stream for result in setting.results if result.stream is not None]
    if not streams:
        return None
    hours = math.fsum(stream["hours"] for stream in streams)
    return Streamed(setting, hours, *_totals(streams, "words", "misses_reset", "misses_carried", "alarms"))


def _size(setting: Setting) -> tuple[int, int]:
    return (setting.costs.file_bytes, setting.costs.macs_per_clip) if setting.costs else (0, 0)


def _rank(group: str) -> tuple[int, str]:
    return (_FIRST_GROUPS.index(group) if group in _FIRST_GROUPS else len(_FIRST_GROUPS)), group
