"""The chosen few anew: other seeds, all folds, judged on the test parts, for a front picked from many flatters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from hark.errors import ConfigError
from hark.exploring.candidate import Candidate
from hark.exploring.workshop import GLANCE_S, Workshop
from hark.files import make_folder, write_atomically
from hark.recipes.recipe import Recipe
from hark.recipes.recipe_text import to_toml

FRESH_SEED = 1000
"""Added to the seeds of the search."""


def confirm(workshop: Workshop, candidates: Sequence[Candidate]) -> None:
    """Make and judge each candidate on every fold, together with all processes that do the same.

    What another has in hand is passed over, and looked at again at the end: all is finished when this returns.
    """
    torch.set_num_threads(workshop.threads)
    left = [(candidate, fold) for fold in workshop.folds for candidate in candidates]
    while left:
        busy = [(each, fold) for each, fold in left if not workshop.confirm(each, fold, seed=FRESH_SEED)]
        if len(busy) == len(left):
            time.sleep(GLANCE_S)
        left = busy


def recipe_of(workshop: Workshop, candidate: Candidate) -> Recipe:
    """The recipe that repeats a confirmed candidate on its own, teachers included."""
    teachers = workshop.teachers.stages
    student = candidate.stages("student", tuple(teachers), seed=FRESH_SEED, setting=candidate.name)
    if clash := teachers.keys() & student.keys():
        raise ConfigError(f"a teacher is called {min(clash)!r}, as the student is; give it another name")
    about = f"Found by hark compress: {candidate.in_words}"
    return Recipe(candidate.name, about, {**teachers, **student})


def write_recipe(workshop: Workshop, candidate: Candidate) -> Path:
    """Write the recipe of a candidate to `recipes/` of the workshop."""
    path = workshop.out / "recipes" / f"{candidate.name}.toml"
    make_folder(path.parent)
    write_atomically(path, to_toml(recipe_of(workshop, candidate)).encode())
    return path
