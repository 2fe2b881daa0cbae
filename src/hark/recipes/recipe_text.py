"""A recipe as TOML, which gives the same recipe when it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from hark.recipes.recipe import Recipe


def to_toml(recipe: Recipe) -> str:
    """The text of a recipe: every setting of every stage, what is None left out."""
    lines = [f"about = {_value(recipe.about)}"]
    for name, stage in recipe.stages.items():
        lines += ["", *_table(("stages", name), asdict(stage))]
    return "\n".join(lines) + "\n"


def _table(path: tuple[str, ...], values: Mapping[str, Any]) -> Iterator[str]:
    """A table's heading, its plain values, then the tables within it."""
    yield f"[{'.'.join(map(_key, path))}]"
    for key, value in values.items():
        if value is not None and not isinstance(value, Mapping):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _table((*path, key), value)


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # the one letter in which they differ
