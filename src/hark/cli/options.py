"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hark.errors import ModelFileError

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)

MODEL = click.argument("model", type=PATH)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key; may come again."
)
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")


def corpus_options(command: F) -> F:
    """What names a task: the corpus, the keyword, the fold."""
    for option in (
        click.option("--fold", type=click.IntRange(0), default=0, show_default=True, help="The fold that tests."),
        click.option("--folds", type=click.IntRange(2, 100), default=5, show_default=True, help="Cut by speaker."),
        click.option("--speech", type=PATH, help="Sentences without the keyword: half train, half judge."),
        click.option("--keyword", required=True, help="The word to spot."),
        click.option("--data", type=PATH, required=True, help="A folder per word, or a manifest."),
    ):
        command = option(command)
    return command


def model_file(path: Path) -> Path:
    """The model that a path names: a file, or a run's."""
    if path.is_dir():
        inner = path / "model.safetensors"
        if not inner.exists():
            raise ModelFileError(f"{path}: holds no model.safetensors; expected a finished run or a model file")
        return inner
    return path


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(value, indent=2))
