"""The command that made a run: kept with it, so that it can be given again from anywhere."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hark.errors import RunError
from hark.files import read_small, write_atomically
from hark.record.runs import Run
from hark.record.status import printable

COMMAND = "command.json"


@dataclass(frozen=True)
class Command:
    """A call of hark.

    Attributes:
        arguments: those after `hark`, as they were given.
        folder: where it was called; what is relative in the arguments is meant from there.
        stages: the runs it makes beside the one it is kept in, that one included, in their order.
    """

    arguments: tuple[str, ...]
    folder: Path
    stages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return printable(shlex.join(("hark", *self.arguments)))

    def keep_in(self, run: Run, *, stages: Iterable[str]) -> None:
        """Write it beside what the run is made of; a later start of the same run writes it anew."""
        kept = {"arguments": self.arguments, "folder": str(self.folder), "stages": tuple(stages)}
        # In ASCII: a path may be no valid text, and a keyword may be NaN; both read back as they were.
        write_atomically(run.path(COMMAND), (json.dumps(kept, indent=2) + "\n").encode())

    @classmethod
    def kept_in(cls, run: Run) -> Command:
        """Read it back; nothing in the file is believed to be more than text.

        Raises:
            RunError: the run has none, or the file is damaged.
        """
        path = run.path(COMMAND)
        try:
            values = json.loads(read_small(path))
            folder, arguments, stages = values["folder"], values["arguments"], values["stages"]
            return cls(_texts(arguments), Path(*_texts([folder])), _plain_names(_texts(stages)))
        except FileNotFoundError:
            raise RunError(
                f"{path}: not there; the run was not made by a command, so go on with it as it was made"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(
                f"{path}: expected the command that made the run ({printable(error)}); "
                "give that command again yourself"
            ) from error


def _texts(values: Any) -> tuple[str, ...]:
    """A list of strings that an operating system could have passed on.

    Raises:
        ValueError: it is anything else.
    """
    if not isinstance(values, list) or not all(isinstance(value, str) and "\0" not in value for value in values):
        raise ValueError("it has something else than texts")
    for value in values:
        os.fsencode(value)
    return tuple(values)


def _plain_names(names: tuple[str, ...]) -> tuple[str, ...]:
    if any(Path(name).name != name for name in names):
        raise ValueError("a stage has a path for its name")
    return names
