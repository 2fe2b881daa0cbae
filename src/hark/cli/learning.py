"""`hark train`, `distill`, `prune`: stages that learn, one by one or as a recipe."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hark.cli.options import DEVICE, FOLD, PATH, SET, TRACK, corpus_options, source
from hark.errors import UsageError

NETWORKS = click.Choice(["base", "stage-1", "stage-2"])
NETWORK = click.option("--network", type=NETWORKS, required=True, help="The network to train.")
OUT = click.option("--out", type=PATH, required=True, help="The run's folder.")
TEACHERS = click.option("--teacher", "teachers", type=PATH, multiple=True, help="A run; may come again.")


@click.command()
@click.argument("recipe", required=False)
@corpus_options
@FOLD
@click.option("--network", type=NETWORKS, help="Train this one, without a recipe.")
@click.option("--out", type=PATH, default=Path("runs"), show_default=True, help="Where the run or runs go.")
@DEVICE
@TRACK
@SET
def train(recipe: str | None, network: str | None, out: Path, overrides: tuple[str, ...], **task: Any) -> None:
    """Train one network, or run every stage of RECIPE (a TOML file, or a name such as reproduce).

    The same command again goes on where it stopped.

    \b
    Example:
      $ hark train --data speech_commands --keyword happy --network stage-2 --out runs/happy
      $ hark train my-recipe.toml --data speech_commands --keyword happy --set training.epochs=20
    """
    from hark.recipes import load_recipe
    from hark.reproduction import Plan, run_fold

    if (recipe is None) == (network is None):
        raise UsageError("expected either a RECIPE or --network base|stage-1|stage-2")
    if network is not None:
        _single({"kind": "train", "network": network}, out, overrides, **task)
        return
    assert recipe is not None
    work = {key: task.pop(key) for key in ("device", "trackers")}
    fold = task.pop("fold")
    loaded = load_recipe(recipe, overrides=overrides)
    plan = Plan(recipe=loaded, source=source(task, cache=out), out=out, **work)
    run_fold(plan, fold)
    click.echo(f"{plan.fold_folder(fold)}: {len(loaded.stages)} stages done")


@click.command()
@corpus_options
@FOLD
@NETWORK
@TEACHERS
@OUT
@DEVICE
@TRACK
@SET
def distill(network: str, teachers: tuple[Path, ...], out: Path, overrides: tuple[str, ...], **task: Any) -> None:
    """Train a student on what its teachers make of the same sound; several teachers are averaged.

    \b
    Example:
      $ hark distill --data speech_commands --keyword happy --network stage-2 \\
          --teacher runs/base --out runs/student --set distillation.temperature=3
    """
    _single({"kind": "distill", "network": network, "teachers": _runs(teachers)}, out, overrides, **task)


@click.command()
@click.argument("model", type=PATH)
@corpus_options
@FOLD
@TEACHERS
@OUT
@DEVICE
@TRACK
@SET
def prune(model: Path, teachers: tuple[Path, ...], out: Path, overrides: tuple[str, ...], **task: Any) -> None:
    """Remove the least important units of MODEL, a run, then fine-tune on the labels or on its teachers.

    \b
    Example:
      $ hark prune runs/student --data speech_commands --keyword happy --teacher runs/base \\
          --out runs/pruned --set pruning.gru=0.4 --set training.epochs=20
    """
    table = {"kind": "prune", "model": _runs([model])[0], "teachers": _runs(teachers)}
    _single(table, out, overrides, **task)


def _single(table: dict[str, Any], out: Path, overrides: tuple[str, ...], **task: Any) -> None:
    """Run one stage as the run `out`, with all that a recipe's stage gets."""
    from hark.dataset import load_task
    from hark.recipes import override, parse_recipe
    from hark.stages import Bench, run_recipe
    from hark.training import choose_device

    device, trackers, fold = (task.pop(key) for key in ("device", "trackers", "fold"))
    choose_device(device)  # before anything is decoded, and before there is a run
    folder = out.resolve()
    values: dict[str, Any] = {"setting": folder.name, **table}
    for change in overrides:
        override(values, change)
    recipe = parse_recipe({"stages": {folder.name: values}}, name=folder.name)
    loaded = load_task(source(task, cache=folder.parent), fold=fold)
    (run,) = run_recipe(recipe, Bench(loaded, folder.parent, device, trackers))
    area = run.read_json("evaluation.json")["one_minus_auc"]
    click.echo(f"{out}: 1-AUC {area:.5f} on fold {fold}'s test part")


def _runs(folders: tuple[Path, ...] | list[Path]) -> list[str]:
    """Runs from outside a recipe, named by their absolute paths."""
    return [str(folder.resolve()) for folder in folders]
