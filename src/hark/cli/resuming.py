"""`hark resume`, `hark detach`: a command that goes on: after a death, or without whoever started it."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hark.cli import cli
from hark.cli.options import PATH
from hark.errors import RunBusy, RunError, UsageError
from hark.files import explained, make_folder
from hark.record.command import Command
from hark.record.runs import OUTPUT, Run, find_runs
from hark.record.status import printable

LEARNING = ("train", "distill", "prune", "reproduce", "compress", "demo")
DETACHABLE = (*LEARNING, "resume", "supervise")
_POLL_S = 0.2


@click.command()
@click.argument("run", type=PATH)
def resume(run: Path) -> None:
    """Go on with the command that made RUN, from wherever you are; a run of a recipe goes on with the recipe.

    Refuses a run that another process is at work in; does nothing where all is finished.

    \b
    Example:
      $ hark resume runs/mine/fold-0/student
      in experiments: hark train mine.toml --data speech_commands --keyword happy
    """
    opened = Run.open(run)
    command = Command.kept_in(opened)
    siblings = [opened, *(Run(opened.folder.parent / name) for name in command.stages)]
    for sibling in siblings:
        if holder := sibling.holder:
            raise RunBusy(f"{sibling.folder}: {holder} is at work in it; watch it: hark attach {sibling.folder}")
    if all(sibling.is_finished for sibling in siblings):
        click.echo(f"{run}: finished, and so is all that {command} makes beside it")
        return
    _require_that_it_makes(opened, command)
    click.echo(f"in {printable(command.folder)}: {command}", err=True)
    with contextlib.chdir(command.folder):
        cli.main(list(command.arguments), prog_name="hark", standalone_mode=False)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, metavar="COMMAND...", type=click.UNPROCESSED)
def detach(command: tuple[str, ...]) -> None:
    """Start COMMAND so that it outlives this terminal or notebook; return when its first run is under way.

    COMMAND is a call of hark without "hark": train, distill, prune, reproduce, compress, demo, resume, supervise.
    What it prints goes to output.log in its --out folder. If it ends before a run is under way, so does
    this, with its exit code.

    \b
    Example:
      $ hark detach train --data speech_commands --keyword happy --network stage-2 --out runs/happy
      process 4711 goes on by itself and writes to runs/happy/output.log; watch it: hark attach runs/happy
    """
    place = output_folder(command)
    make_folder(place)
    output = place / OUTPUT
    live_before = _live_runs(place)
    with explained(output), output.open("ab") as file:
        begun_at = file.tell()
        process = _start(command, file.fileno())
    told = f"process {process.pid} goes on by itself and writes to {output}"
    try:
        run = _await_run(process, place, begun_at, live_before)
    except KeyboardInterrupt:
        click.echo(told, err=True)
        sys.exit(130)
    if run is None:
        sys.exit(process.returncode)
    click.echo(f"{told}; watch it: hark attach {run.folder}")


def _require_that_it_makes(run: Run, command: Command) -> None:
    """Refuse a kept command that would not lead back to the run: it was moved, or somebody has changed the file.

    Raises:
        RunError: it would not.
    """
    folder = run.folder.resolve()
    way_out = "put it back where it was, or give its command yourself"
    try:
        with contextlib.chdir(command.folder):
            place = _out(command.arguments).resolve()
    except OSError as error:
        told = f"was made in {printable(command.folder)}, which cannot be entered ({error.strerror})"
        raise RunError(f"{run.folder}: {told}; {way_out}: {command}") from error
    except UsageError as error:
        raise RunError(f"{run.folder}: its kept command cannot be given: {printable(error)}; {way_out}") from error
    if not folder.is_relative_to(place):
        told = f"its kept command writes to {printable(place)}, not to it"
        raise RunError(f"{run.folder}: {told}; {way_out}: {command}")


def _out(arguments: Sequence[str]) -> Path:
    """Where a learning command writes, found by hark's own parser; nothing of it is carried out.

    Raises:
        UsageError: it is no such command, or cannot be called so.
    """
    name, options = arguments[0] if arguments else "", list(arguments[1:])
    if name not in LEARNING:
        raise UsageError(f"{printable(name)!r}: expected one of {', '.join(LEARNING)}")
    return Path(parsed(name, options)["out"])


def output_folder(arguments: Sequence[str]) -> Path:
    """The folder for the output of a command that is to be detached.

    Raises:
        UsageError: it is none that can be, or cannot be called so.
    """
    name, options = arguments[0], list(arguments[1:])
    if name not in DETACHABLE:
        raise UsageError(f"{printable(name)!r}: expected one of {', '.join(DETACHABLE)}")
    if name == "resume":
        return Run.open(Path(parsed(name, options)["run"])).folder
    return output_folder(parsed(name, options)["command"]) if name == "supervise" else _out(arguments)


def parsed(name: str, options: list[str]) -> dict[str, Any]:
    """The values of a command's options, found by hark's own parser; nothing of it is carried out.

    Raises:
        UsageError: it cannot be called so.
    """
    with click.Context(cli, info_name="hark") as root:
        command = cli.get_command(root, name)
        assert command is not None
        try:
            return command.make_context(name, options, parent=root).params
        except (click.ClickException, click.exceptions.Exit, click.Abort) as error:
            told = error.format_message() if isinstance(error, click.ClickException) else "it only asks for help"
            raise UsageError(f"{name}: {printable(told)}; see: hark {name} --help") from error


def _start(command: Sequence[str], output: int) -> subprocess.Popen[bytes]:
    """Start hark in a session of its own, which no terminal and no notebook ends."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what is ignored here will be ignored there
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "hark", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    finally:
        signal.signal(signal.SIGHUP, before)


def _await_run(process: subprocess.Popen[bytes], place: Path, begun_at: int, live_before: set[Path]) -> Run | None:
    """The first run in `place` that comes to life, or None if the process ends before; show what it says."""
    with (place / OUTPUT).open("rb") as file:
        file.seek(begun_at)
        while True:
            ended = process.poll() is not None
            click.echo(file.read(), err=True, nl=False)
            if live := _live_runs(place) - live_before:
                return Run(min(live))
            if ended:
                return None
            time.sleep(_POLL_S)


def _live_runs(place: Path) -> set[Path]:
    return {run.folder for run in find_runs([place]) if run.is_live}
