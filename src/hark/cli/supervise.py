"""`hark supervise`: a command that is started again when it has died."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

import sys

import click

from hark.cli.resuming import output_folder, parsed
from hark.errors import UsageError
from hark.record.supervision import ON_ANOTHER_DEVICE
from hark.record.supervision import supervise as run


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--retries", type=click.IntRange(0), default=5, show_default=True,
              help="Restarts in a row that bring it no further.")  # fmt: skip
@click.option("--allow-cpu", is_flag=True, help="Go on with the CPU where the GPU does not come back.")
@click.argument("command", nargs=-1, required=True, metavar="COMMAND...", type=click.UNPROCESSED)
def supervise(retries: int, allow_cpu: bool, command: tuple[str, ...]) -> None:
    """Run COMMAND, and again whenever it was killed, has crashed or has lost its device.

    COMMAND is a call of hark without "hark": train, distill, prune, reproduce, demo or resume. It goes on where
    it stopped, after a pause that doubles each time it has got no further. What ends with an error in one
    line, or by Ctrl-C, is not started again. The exit code is COMMAND's.

    \b
    Example:
      $ hark supervise --allow-cpu train --data speech_commands --keyword happy --network base --out runs/happy
      supervise: exit code 75, which asks for another try; restart 1 of 5 in 1.2 s
    """
    folder = output_folder(command)
    if command[0] == "resume":
        folder = folder.parent  # where the other stages of its recipe lie
    if allow_cpu and "device" not in parsed(command[0], list(command[1:])):
        raise UsageError(f"--allow-cpu: {command[0]} has no --device; leave it out")
    hark = (sys.executable, "-P", "-m", "hark")
    after_loss = ON_ANOTHER_DEVICE if allow_cpu else ()
    sys.exit(run([*hark, *command], folder=folder, retries=retries, after_loss=after_loss))
