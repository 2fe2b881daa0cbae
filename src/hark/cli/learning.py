"""`hark train`, `distill`, `prune`: stages that learn, one by one or as a recipe."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hark.cli.options import (
    FOLD,
    PATH,
    SET,
    TRACK,
    corpus_options,
    machine,
    machine_options,
    require_device,
    source,
    this_command,
)
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
@click.option("--weights-only-from", type=PATH, help="Begin with the weights of a run, checkpoint or model.")
@click.option("--out", type=PATH, default=Path("runs"), show_default=True, help="Where the run or runs go.")
@machine_options
@TRACK
@SET
def train(
    recipe: str | None,
    network: str | None,
    weights_only_from: Path | None,
    out: Path,
    overrides: tuple[str, ...],
    **task: Any,
) -> None:
    """Train one network, or run every stage of RECIPE (a TOML file, or a name such as reproduce).

    The same command again goes on where it stopped. With --weights-only-from, a new run begins where
    another has come to, of the same or another keyword; a run that is not finished gives its best checkpoint.

    \b
    Example:
      $ hark train --data speech_commands --keyword happy --network stage-2 --out runs/happy
      $ hark train my-recipe.toml --data speech_commands --keyword happy --set training.epochs=20
      $ hark train --data mine --keyword sofa --network stage-2 --weights-only-from runs/happy --out runs/sofa
    """
    if (recipe is None) == (network is None):
        raise UsageError("expected either a RECIPE or --network base|stage-1|stage-2")
    if network is not None:
        begin = {"weights_from": str(weights_only_from.resolve())} if weights_only_from else {}
        _single({"kind": "train", "network": network, **begin}, out, overrides, **task)
        return
    assert recipe is not None
    if weights_only_from is not None:
        raise UsageError("--weights-only-from goes with --network; in a RECIPE a stage has the key weights_from")
    require_device(task)
    from hark.recipes.recipe import load_recipe
    from hark.recipes.reproduction import Plan, run_fold

    fold, trackers = task.pop("fold"), task.pop("trackers")
    loaded = load_recipe(recipe, overrides=overrides)
    work = {"machine": machine(task), "trackers": trackers, "command": this_command()}
    plan = Plan(recipe=loaded, source=source(task, cache=out), out=out, **work)
    run_fold(plan, fold)
    click.echo(f"{plan.fold_folder(fold)}: {len(loaded.stages)} stages done")


@click.command()
@corpus_options
@FOLD
@NETWORK
@TEACHERS
@OUT
@machine_options
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
@machine_options
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
    require_device(task)
    from hark.recipes.recipe import override, parse_recipe
    from hark.recipes.reproduction import Plan, run_in

    trackers, fold = (task.pop(key) for key in ("trackers", "fold"))
    folder = out.resolve()
    values: dict[str, Any] = {"setting": folder.name, **table}
    for change in overrides:
        override(values, change)
    recipe = parse_recipe({"stages": {folder.name: values}}, name=folder.name)
    work = {"machine": machine(task), "trackers": trackers, "command": this_command()}
    plan = Plan(recipe=recipe, source=source(task, cache=folder.parent), out=folder.parent, **work)
    (run,) = run_in(folder.parent, plan, fold)
    if not run.path("evaluation.json").exists():
        click.echo(f"{out}: trained on all clips, so that none is left to judge it on")
        return
    area = run.read_json("evaluation.json")["one_minus_auc"]
    click.echo(f"{out}: 1-AUC {area:.5f} on fold {fold}'s test part")


def _runs(folders: tuple[Path, ...] | list[Path]) -> list[str]:
    """Runs from outside a recipe, named by their absolute paths."""
    return [str(folder.resolve()) for folder in folders]
