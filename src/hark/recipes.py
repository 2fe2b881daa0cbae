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
LARGEST_BYTES = 1 << 20
LONGEST_NAME = 100


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

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ConfigError("no teachers, expected at least one")

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

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"bits is {_shown(self.bits)}, expected 2 to 8")

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

    def __post_init__(self) -> None:
        if not all(0 <= share < 1 for share in self.shares):
            raise ConfigError(f"shares are {_shown(self.shares)}, expected each from 0 up to 1")

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
_ADAPTERS: dict[str, TypeAdapter[AnyStage]] = {name: TypeAdapter(kind) for name, kind in KINDS.items()}


@dataclass(frozen=True)
class Recipe:
    """A named chain of stages, in the order in which they run."""

    name: str
    about: str
    stages: dict[str, AnyStage]

    SHARED: ClassVar = {"training": TrainingConfig, "distillation": DistillationConfig}
    """Tables at the top, which hold for every stage that does not say otherwise."""


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
        values = tomllib.loads(_read(path).decode())
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not TOML, not UTF-8, too many digits
        shelf = ", ".join(sorted(file.stem for file in COOKBOOK.glob("*.toml")))
        raise ConfigError(
            f"{path}: cannot be read as a recipe ({error}); expected a TOML file or one of {shelf}"
        ) from error
    for change in overrides:
        override(values, change)
    return parse_recipe(values, name=path.stem)


def parse_recipe(values: Mapping[str, Any], *, name: str) -> Recipe:
    """A recipe from plain values, as TOML gives them.

    Raises:
        ConfigError: it is not valid; the message names every fault.
    """
    tables = values.get("stages")
    if not isinstance(tables, Mapping) or not tables:
        raise ConfigError(f"recipe {name}: no stages; expected at least one table such as [stages.base]")
    faults = list(_faults_at_the_top(values))
    shared = {key: values[key] for key in Recipe.SHARED if key in values}
    stages: dict[str, AnyStage | None] = {}
    for stage_name, table in tables.items():
        stage, stage_faults = _parse_stage(f"stages.{stage_name}", table, shared)
        faults += [*_misnamed(stage_name), *stage_faults, *(_unmet(stage_name, stage, stages) if stage else ())]
        stages[stage_name] = stage
    if faults:
        raise ConfigError(" ".join(f"recipe {name}: {'; '.join(faults)}".split()))
    return Recipe(name, values.get("about", ""), {key: stage for key, stage in stages.items() if stage})


def network_config(network: str | CrnnConfig) -> CrnnConfig:
    """The configuration of a network given by name or in full."""
    return PUBLISHED[network] if isinstance(network, str) else network


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"more than {LARGEST_BYTES:,} bytes")
    return content


def _faults_at_the_top(values: Mapping[str, Any]) -> Iterator[str]:
    known = ("about", "stages", *Recipe.SHARED)
    yield from (_unknown(key, known, "") for key in values if key not in known)
    if not isinstance(values.get("about", ""), str):
        yield f"about is {_shown(values['about'])}, expected text"
    for key, kind in Recipe.SHARED.items():
        if isinstance(table := values.get(key), Mapping):
            yield from _unknown_keys(table, kind, key)


def _parse_stage(where: str, table: Any, shared: Mapping[str, Any]) -> tuple[AnyStage | None, list[str]]:
    found = table.get("kind") if isinstance(table, Mapping) else table
    if not isinstance(table, Mapping) or not isinstance(found, str) or found not in KINDS:
        return None, [f"{where}: kind is {_shown(found)}, expected one of {', '.join(KINDS)}"]
    kind = KINDS[found]
    if faults := list(_unknown_keys(table, kind, where)):
        return None, faults
    names = {entry.name for entry in dataclasses.fields(kind)}
    try:
        merged = _merge({key: value for key, value in shared.items() if key in names}, table)
        # JSON's strictness: lists may be tuples and integers floats, but nothing else changes its type.
        return _ADAPTERS[found].validate_json(json.dumps(merged, default=_refuse), strict=True), []
    except ValidationError as error:
        return None, [_explain(where, fault) for fault in error.errors()]
    except (ConfigError, ValueError) as error:
        return None, [f"{where}: {error}"]
    except RecursionError:
        return None, [f"{where}: tables nested too deeply"]


def _refuse(value: object) -> None:
    """TOML has dates and times, JSON has not, and no stage takes any."""
    raise ValueError(f"{value} is a {type(value).__name__}, expected a number, text, a list or a table")


def _misnamed(stage: str) -> list[str]:
    """A stage is a folder within its recipe's, and must not lead out of it."""
    plain = Path(stage).name == stage and not stage.startswith(".") and stage.isprintable()
    if plain and 0 < len(stage) <= LONGEST_NAME:
        return []
    return [f"stages.{_shown(stage)}: expected a plain folder name of at most {LONGEST_NAME} letters"]


def _unmet(name: str, stage: AnyStage, earlier: Mapping[str, AnyStage | None]) -> list[str]:
    """A fault for each input that no earlier stage gives. A stage that has faults of its own is taken to give it.

    Only a model of floats can be shrunk; dynamically quantised ones are good for nothing but judging.
    """
    of_floats = [
        key
        for key, given in earlier.items()
        if given is None or isinstance(given, TrainStage | DistillStage | PruneStage)
    ]
    of_rows = [
        key for key, given in earlier.items() if isinstance(given, QuantizeStage) and given.method == "rows"
    ]
    faults = []
    for wanted in stage.inputs():
        usable = of_floats if wanted == getattr(stage, "model", None) else of_floats + of_rows
        if wanted not in usable and not Path(wanted).is_absolute():
            names = ", ".join(usable) or "there is none"
            faults.append(f"stages.{name}: takes {_shown(wanted)}, expected an earlier stage ({names})")
    return faults


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
    # Where a value may be of several types, pydantic puts the type it tried into the path.
    named = [str(part) for part in fault["loc"] if not str(part).startswith(("literal[", "CrnnConfig"))]
    place = ".".join((where, *named))
    return f"{place} is {_shown(fault['input'])}: {fault['msg']}"


def _shown(value: object) -> str:
    """A value for a message, never longer than a line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # too many digits, too deeply nested
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def override(values: dict[str, Any], change: str) -> None:
    """Set one key of a recipe's plain values, such as `training.epochs=20`, in place."""
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {change}: expected key=value, such as training.epochs=20")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a bare word is a string
    *path, leaf = key.strip().split(".")
    table = values
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {change}: {part} is a value, not a table")
    table[leaf] = value
