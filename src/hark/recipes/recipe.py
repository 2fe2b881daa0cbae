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
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar

from hark.configuration import build, in_one_line, is_text, named, shown, unknown_key
from hark.errors import ConfigError
from hark.files import read_small
from hark.learning.distillation import DistillationConfig
from hark.learning.training import TrainingConfig
from hark.recipes.kinds import (
    KINDS,
    AnyStage,
    DistillStage,
    PruneStage,
    QuantizeAwareStage,
    QuantizeStage,
    TrainStage,
)

COOKBOOK = Path(__file__).parent / "cookbook"
LARGEST_BYTES = 1 << 18
MOST_DOTS = 64
LONGEST_NAME = 100
MOST_STAGES = 1000


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
        values = _parsed(read_small(path, largest_bytes=LARGEST_BYTES).decode())
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
    if len(tables) > MOST_STAGES:
        raise ConfigError(f"recipe {name}: {len(tables):,} stages, expected at most {MOST_STAGES:,}")
    faults = list(_faults_at_the_top(values))
    shared = {key: table for key, table in values.items() if key in Recipe.SHARED and not _fault_of(key, table)}
    stages: dict[str, AnyStage | None] = {}
    for stage_name, table in tables.items():
        stage, fault = _parse_stage(f"stages.{stage_name}", table, shared)
        faults += [*_misnamed(stage_name), *fault, *(_unmet(stage_name, stage, stages) if stage else ())]
        stages[stage_name] = stage
    if faults:
        raise ConfigError(f"recipe {name}: {in_one_line(faults)}")
    return Recipe(name, values.get("about", ""), {key: stage for key, stage in stages.items() if stage})


def _parsed(toml: str) -> dict[str, Any]:
    if max(map(str.count, toml.splitlines(), repeat(".")), default=0) > MOST_DOTS:
        # A key of 50,000 parts, 100 KB, would take the library a minute and 10 GB.
        raise ValueError(f"more than {MOST_DOTS} dots in a line")
    return tomllib.loads(toml)


def _faults_at_the_top(values: Mapping[str, Any]) -> Iterator[str]:
    known = ("about", "stages", *Recipe.SHARED)
    yield from (unknown_key(key, known) for key in values if key not in known)
    if not is_text(values.get("about", "")):
        yield f"about is {shown(values['about'])}, expected text"
    yield from (fault for key in Recipe.SHARED if key in values and (fault := _fault_of(key, values[key])))


def _fault_of(key: str, table: object) -> str:
    """What is wrong with a table at the top, told once and not for each stage that it holds for."""
    try:
        build(Recipe.SHARED[key], table, where=key)
    except ConfigError as error:
        return str(error)
    return ""


def _parse_stage(where: str, table: object, shared: Mapping[str, Any]) -> tuple[AnyStage | None, list[str]]:
    found = table.get("kind") if isinstance(table, Mapping) else table
    if not isinstance(table, Mapping) or not isinstance(found, str) or found not in KINDS:
        return None, [f"{where}: kind is {shown(found)}, expected one of {', '.join(KINDS)}"]
    kind = KINDS[found]
    names = {entry.name for entry in dataclasses.fields(kind)}
    merged = _merge({key: value for key, value in shared.items() if key in names}, table)
    try:
        return build(kind, merged, where=where), []
    except ConfigError as error:
        return None, [str(error)]


def _misnamed(stage: str) -> list[str]:
    """A stage is a folder within its recipe's, and must not lead out of it."""
    plain = Path(stage).name == stage and not stage.startswith(".") and stage.isprintable()
    if plain and 0 < len(stage) <= LONGEST_NAME:
        return []
    return [f"stages.{shown(stage)}: expected a plain folder name of at most {LONGEST_NAME} letters"]


def _unmet(name: str, stage: AnyStage, earlier: Mapping[str, AnyStage | None]) -> list[str]:
    """A fault for each input that no earlier stage gives. A stage that has faults of its own is taken to give it.

    Only a model of floats can be shrunk or trained further; quantised ones can teach, but for dynamic qint8.
    """
    of_floats = [
        key
        for key, given in earlier.items()
        if given is None or isinstance(given, TrainStage | DistillStage | PruneStage)
    ]
    quantized = [
        key
        for key, given in earlier.items()
        if isinstance(given, QuantizeAwareStage)
        or (isinstance(given, QuantizeStage) and given.method != "dynamic")
    ]
    faults = []
    for wanted in stage.inputs():
        is_changed = wanted in (getattr(stage, "model", None), getattr(stage, "weights_from", None))
        usable = of_floats if is_changed else of_floats + quantized
        if wanted not in usable and not Path(wanted).is_absolute():
            names = ", ".join(usable) or "there is none"
            faults.append(f"stages.{name}: takes {shown(wanted)}, expected an earlier stage ({names})")
    return faults


def _merge(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in values.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def override(values: dict[str, Any], change: str) -> None:
    """Set one key of a recipe's plain values, such as `training.epochs=20`, in place."""
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {named(change)}: expected key=value, such as training.epochs=20")
    try:
        value = _parsed(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a bare word is a string
    *path, leaf = key.strip().split(".")
    table = values
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {named(change)}: {named(part)} is a value, not a table")
    table[leaf] = value
