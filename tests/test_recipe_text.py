"""A recipe as TOML is the recipe itself."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hark.recipes.recipe import COOKBOOK, Recipe, load_recipe, parse_recipe
from hark.recipes.recipe_text import to_toml


@pytest.mark.parametrize("name", sorted(path.stem for path in COOKBOOK.glob("*.toml")))
def test_every_recipe_of_the_cookbook_reads_back_from_its_text(name: str) -> None:
    recipe = load_recipe(name)
    assert parse_recipe(tomllib.loads(to_toml(recipe)), name=name) == recipe


def test_a_recipe_with_every_kind_of_stage_reads_back(mini_recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "mini.toml"
    file.write_text(to_toml(mini_recipe))
    assert load_recipe(file) == mini_recipe


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_reads_back(about: str) -> None:
    recipe = replace(load_recipe("teachers"), about=about)
    assert tomllib.loads(to_toml(recipe))["about"] == about
