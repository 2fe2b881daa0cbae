"""The models that come with hark, by their names; and what a name or a path means, decided here alone."""

from __future__ import annotations

from pathlib import Path

from hark.errors import ModelFileError

SHELF = Path(__file__).parent
SUFFIX = ".hark"


def shelf() -> dict[str, Path]:
    """The files of the models that come with hark, by their names, in alphabetical order."""
    return {path.stem: path for path in sorted(SHELF.glob(f"*{SUFFIX}"))}


def find(named: str) -> Path:
    """The path of a model: of one that comes with hark by its name, else what is named itself.

    `./happy` is the path where `happy` is the name of a model. Whether a path leads to a model, others find out;
    only of a plain word must it be known what is meant.

    Raises:
        ModelFileError: a word that is no name of a model, and nothing here is called so.
    """
    models = shelf()
    if named in models:
        return models[named]
    path = Path(named)
    if path.name == named and not path.suffix and not path.exists():
        names = ", ".join(models) or "none yet"
        raise ModelFileError(
            f"{path}: no file or run, and not a model that comes with hark ({names}); hark models lists these"
        )
    return path
