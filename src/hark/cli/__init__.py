"""The command line: one group whose commands are loaded only when they are called.

Results go to stdout, progress to stderr. Exit 0 is done, 2 a wrong call, and what `hark.errors` says else.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from hark import __version__
from hark.errors import HarkError
from hark.notices import say
from hark.record.interruption import TERMINATED, leaving_on_sigterm

# Command → (where it lives, one line for the list). The list must not load torch.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("hark.cli.road:demo", "The whole road on synthesised speech, in a few minutes."),
    "reproduce": (
        "hark.cli.road:reproduce",
        "The reference report on your data: all stages, all folds, one page.",
    ),
    "compress": ("hark.cli.compress:compress", "From a budget to the best spotters within it."),
    "data": ("hark.cli.data:data", "Fetch, check, list, split and convert recordings."),
    "synthesize": ("hark.cli.synthesize:synthesize", "Clips of any word or phrase by many synthetic voices."),
    "train": ("hark.cli.learning:train", "Train a network, or run a whole recipe."),
    "distill": ("hark.cli.learning:distill", "Train a small network on what large ones hear."),
    "prune": ("hark.cli.learning:prune", "Remove units, then fine-tune."),
    "quantize": ("hark.cli.models:quantize", "Put a model's weights on a grid of few bits."),
    "import": ("hark.cli.models:import_", "Bring in a checkpoint of the reference's network."),
    "pack": ("hark.cli.shipping:pack", "Write the .hark file of a model: a few kilobytes."),
    "export": ("hark.cli.shipping:export", "An ONNX graph, a folder of C, or a page for browsers."),
    "cost": ("hark.cli.models:cost", "Operations, bytes, memory and latency, layer by layer."),
    "evaluate": ("hark.cli.judging:evaluate", "Judge a model on clips and on a stream."),
    "check-stream": ("hark.cli.judging:check_stream", "Prove that streaming gives the offline output."),
    "verify": ("hark.cli.verify:verify", "Prove that a model streams, and that its files give the same."),
    "detect": ("hark.cli.judging:detect", "Find the keyword in recordings of any length."),
    "models": ("hark.cli.shelf:models", "The models that come with hark, and their cards."),
    "release": ("hark.cli.release:release", "Make a .hark file and its card of a run, ready to ship."),
    "report": ("hark.cli.report:report", "One page of tables and figures from runs."),
    "runs": ("hark.cli.runs:runs", "List runs and how they stand."),
    "attach": ("hark.cli.runs:attach", "Watch a run from another terminal."),
    "detach": ("hark.cli.resuming:detach", "Start a command that outlives terminal and notebook."),
    "resume": ("hark.cli.resuming:resume", "Go on with the command that made a run."),
    "supervise": ("hark.cli.supervise:supervise", "Start a command again whenever it has died."),
    "doctor": ("hark.cli.doctor:doctor", "What of this machine could spoil a night of training."),
    "track": ("hark.cli.track:track", "Mirror runs to W&B or TensorBoard."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is called."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Remember the call, so that a run can tell which command made it."""
        return super().make_context(info_name, args, parent, obj=tuple(args), **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the road."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Load one command."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List all commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hark")
def cli() -> None:
    """Train keyword spotters, shrink them, and prove that what was shrunk still hears the same."""


def main() -> NoReturn:
    """Run the command line and exit; an error of ours is one line on stderr."""
    # We draw into files. What a notebook draws with, and tells us here, may not exist where hark is installed.
    os.environ["MPLBACKEND"] = "agg"
    try:
        with leaving_on_sigterm():
            cli.main(prog_name="hark", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except HarkError as error:
        say(f"hark: {error}")
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        say(f'hark: {error.name} is not installed; pip install "hark-kws[train]"')
        sys.exit(1)
    except SystemExit as leaving:
        if leaving.code == TERMINATED:
            say("hark: terminated")
        raise
    except (click.Abort, KeyboardInterrupt):
        say("hark: interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has stopped: point stdout elsewhere, so that closing it cannot fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        say(f"hark: {place}{error.strerror or error}; expected a usable path")
        sys.exit(1)
    sys.exit(0)
