"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from hark.errors import ModelFileError
from hark.inspection import MAX_BAD_SHARE
from hark.runs import MODEL_FILE
from hark.splits import SplitRule
from hark.tracking import BACKENDS

if TYPE_CHECKING:
    from hark.dataset import Source

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)

MODEL = click.argument("model", type=PATH)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key; may come again."
)
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")

TRACK = click.option(
    "--track", "trackers", type=click.Choice(sorted(BACKENDS)), multiple=True, help="Mirror to a tracker."
)


def corpus_options(command: F) -> F:
    """What names a corpus and the keyword in it; `source` makes it one value."""
    for option in (
        click.option("--max-bad-share", type=click.FloatRange(0, 1), default=MAX_BAD_SHARE, show_default=True,
                     help="Go on without damaged clips up to this share."),
        click.option("--folds", type=click.IntRange(2, 100), default=5, show_default=True, help="How many folds."),
        click.option("--split", type=click.Choice(get_args(SplitRule)),
                     default="speakers", show_default=True, help="How the corpus is cut into parts."),
        click.option("--speech", type=PATH, help="Sentences without the keyword: half train, half judge."),
        click.option("--keyword", required=True, help="The word to spot."),
        click.option("--data", "root", type=PATH, required=True, help="A folder per word, or a manifest."),
    ):  # fmt: skip
        command = option(command)
    return command


FOLD = click.option("--fold", type=click.IntRange(0), default=0, show_default=True, help="The fold that tests.")


def source(corpus: dict[str, Any], *, cache: Path) -> Source:
    """The values of `corpus_options` as one, decoded sound kept below `cache`."""
    from hark.dataset import Source

    return Source(cache=cache / "cache", **corpus)


def model_file(path: Path) -> Path:
    """The model that a path names: a file, or a run's."""
    if path.is_dir():
        inner = path / MODEL_FILE
        if not inner.exists():
            raise ModelFileError(f"{path}: holds no {MODEL_FILE}; expected a finished run or a model file")
        return inner
    return path


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(value, indent=2))
