"""Recipes: a TOML file names a chain of stages, each of which takes models and gives one.

    [stages.base]
    kind = "train"
    network = "base"

    [stages.student]
    kind = "distill"
    network = "stage-2"
    teachers = ["base"]

    [stages.student-int8]
    kind = "quantize"
    model = "student"

What stands under `[training]` and `[distillation]` at the top holds for every stage that does not say otherwise.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from hark.distillation import DistillationConfig
from hark.errors import ConfigError
from hark.models.crnn import PUBLISHED, CrnnConfig
from hark.pruning import PruningConfig
from hark.training import TrainingConfig

COOKBOOK = Path(__file__).parent / "cookbook"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What all stages have: the row they fill in a report, if any."""

    setting: str | None = None
    """The row's name; without one the stage is only a step on the way."""
    group: Literal["ours", "reference"] = "ours"

    def inputs(self) -> tuple[str, ...]:
        """The stages whose models this one takes; an absolute path is a run from outside the recipe."""
        return ()


@dataclass(frozen=True, kw_only=True)
class TrainStage(Stage):
    """Train a network from scratch."""

    kind: Literal["train"] = "train"
    network: Literal["base", "stage-1", "stage-2"] | CrnnConfig
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True, kw_only=True)
class DistillStage(Stage):
    """Train a network on what its teachers make of the same sound."""

    kind: Literal["distill"] = "distill"
    network: Literal["base", "stage-1", "stage-2"] | CrnnConfig
    teachers: tuple[str, ...]
    training: TrainingConfig = field(default_factory=TrainingConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    def inputs(self) -> tuple[str, ...]:
        """The teachers."""
        return self.teachers


@dataclass(frozen=True, kw_only=True)
class QuantizeStage(Stage):
    """Put weights on a grid: our per-row integers, or the reference's torch dynamic qint8."""

    kind: Literal["quantize"] = "quantize"
    model: str
    method: Literal["rows", "dynamic"] = "rows"
    bits: int = 8

    def inputs(self) -> tuple[str, ...]:
        """The model that is quantised."""
        return (self.model,)


@dataclass(frozen=True, kw_only=True)
class PruneStage(Stage):
    """Remove units, then fine-tune: on the labels, or on what teachers say."""

    kind: Literal["prune"] = "prune"
    model: str
    teachers: tuple[str, ...] = ()
    pruning: PruningConfig = field(default_factory=PruningConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    def inputs(self) -> tuple[str, ...]:
        """The model that is pruned, and the teachers."""
        return (self.model, *self.teachers)


@dataclass(frozen=True, kw_only=True)
class DamageStage(Stage):
    """Measure what pruning alone does to a model, row-wise as the reference did it and by unit."""

    kind: Literal["damage"] = "damage"
    model: str
    shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)

    def inputs(self) -> tuple[str, ...]:
        """The model that is damaged."""
        return (self.model,)


AnyStage: TypeAlias = TrainStage | DistillStage | QuantizeStage | PruneStage | DamageStage
KINDS: dict[str, type[AnyStage]] = {
    "train": TrainStage,
    "distill": DistillStage,
    "quantize": QuantizeStage,
    "prune": PruneStage,
    "damage": DamageStage,
}


@dataclass(frozen=True)
class Recipe:
    """A named chain of stages, in the order in which they run."""

    name: str
    about: str
    stages: dict[str, AnyStage]

    SHARED: ClassVar = ("training", "distillation")


def load_recipe(name: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file, or that of this name in the cookbook.

    Args:
        name: a path, or a name such as `reproduce`.
        overrides: changes such as `stages.base.training.epochs=20`.

    Raises:
        ConfigError: it cannot be read, or is not valid; the message names every fault.
    """
    path = Path(name)
    if path.suffix != ".toml" and (COOKBOOK / f"{name}.toml").exists():
        path = COOKBOOK / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        shelf = ", ".join(sorted(file.stem for file in COOKBOOK.glob("*.toml")))
        raise ConfigError(
            f"{path}: cannot be read as a recipe ({error}); expected a TOML file or one of {shelf}"
        ) from error
    for change in overrides:
        override(values, change)
    return parse_recipe(values, name=path.stem)


def parse_recipe(values: Mapping[str, Any], *, name: str) -> Recipe:
    """A recipe from plain values, as TOML gives them."""
    known = ("about", "stages", *Recipe.SHARED)
    faults = [_unknown(key, known, "") for key in values if key not in known]
    shared = {key: values[key] for key in Recipe.SHARED if key in values}
    stages: dict[str, AnyStage] = {}
    tables = values.get("stages", {})
    if not isinstance(tables, Mapping) or not tables:
        raise ConfigError(f"recipe {name}: no stages; expected at least one table such as [stages.base]")
    for stage_name, table in tables.items():
        stage, stage_faults = _parse_stage(f"stages.{stage_name}", table, shared)
        faults += stage_faults
        if stage:
            faults += _unmet(stage_name, stage, stages)
            stages[stage_name] = stage
    if faults:
        raise ConfigError(f"recipe {name}: " + "; ".join(faults))
    return Recipe(name, str(values.get("about", "")), stages)


def network_config(network: str | CrnnConfig) -> CrnnConfig:
    """The configuration of a network given by name or in full."""
    return PUBLISHED[network] if isinstance(network, str) else network


def _parse_stage(where: str, table: Any, shared: Mapping[str, Any]) -> tuple[AnyStage | None, list[str]]:
    if not isinstance(table, Mapping) or table.get("kind") not in KINDS:
        found = table.get("kind") if isinstance(table, Mapping) else table
        return None, [f"{where}: kind is {found!r}, expected one of {', '.join(KINDS)}"]
    kind = KINDS[table["kind"]]
    names = {entry.name for entry in dataclasses.fields(kind)}
    merged = _merge({key: value for key, value in shared.items() if key in names}, table)
    faults = list(_unknown_keys(merged, kind, where))
    if faults:
        return None, faults
    try:
        # JSON's strictness: lists may be tuples and integers floats, but nothing else changes its type.
        return TypeAdapter(kind).validate_json(json.dumps(merged), strict=True), []
    except ValidationError as error:
        return None, [_explain(where, fault) for fault in error.errors()]
    except (ConfigError, ValueError) as error:
        return None, [f"{where}: {error}"]


def _unmet(name: str, stage: AnyStage, earlier: Mapping[str, AnyStage]) -> list[str]:
    usable = [key for key, value in earlier.items() if not isinstance(value, DamageStage)]
    return [
        f"stages.{name}: takes {wanted!r}, expected an earlier stage ({', '.join(usable) or 'there is none'})"
        for wanted in stage.inputs()
        if wanted not in usable and not Path(wanted).is_absolute()
    ]


def _merge(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in values.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _unknown_keys(values: Mapping[str, Any], kind: type, where: str) -> Iterator[str]:
    """A fault for each key, at any depth, that the dataclass `kind` has no field for."""
    types = typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in types:
            yield _unknown(f"{where}.{key}", tuple(types), f"{where}.")
        elif isinstance(value, Mapping):
            inner = [t for t in (types[key], *typing.get_args(types[key])) if dataclasses.is_dataclass(t)]
            for candidate in inner[:1]:
                yield from _unknown_keys(value, typing.cast("type", candidate), f"{where}.{key}")


def _unknown(key: str, known: Sequence[str], prefix: str) -> str:
    near = difflib.get_close_matches(key.removeprefix(prefix), known, n=1, cutoff=0.5)
    return f"unknown key {key}" + (f", did you mean {prefix}{near[0]}?" if near else "")


def _explain(where: str, fault: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in (where, *fault["loc"]))
    return f"{place} is {str(fault['input'])[:60]!r}: {fault['msg']}"


def override(values: dict[str, Any], change: str) -> None:
    """Set one key of a recipe's plain values, such as `training.epochs=20`, in place."""
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {change}: expected key=value, such as training.epochs=20")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *path, leaf = key.strip().split(".")
    table = values
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {change}: {part} is a value, not a table")
    table[leaf] = value
