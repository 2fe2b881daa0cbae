"""`hark evaluate`, `check-stream`, `detect`: what a model hears."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hark.cli.options import (
    AS_JSON,
    FOLD,
    MODEL,
    MODEL_PATH,
    PATH,
    corpus_options,
    open_runner,
    point_options,
    print_json,
    source,
)
from hark.errors import UsageError
from hark.judging.detection import OperatingPoint
from hark.judging.listening import detections_in, judge_recordings
from hark.models.card import card_file, read_card
from hark.models.shelf import SUFFIX, find
from hark.notices import say
from hark.runtime import Model, Runner

if TYPE_CHECKING:
    from hark.learning.dataset import Task
    from hark.proof.robustness import Robustness


@click.command()
@MODEL
@corpus_options
@FOLD
@click.option("--grid", "with_grid", is_flag=True, help="Also judge in noise, at other levels and in rooms.")
@click.option("--out", type=PATH, help="Write the grid to this JSON file.")
@AS_JSON
def evaluate(model: Path, with_grid: bool, out: Path | None, as_json: bool, fold: int, **corpus: Any) -> None:
    """Judge MODEL on the test part: clips from a fresh state, and one endless stream with its state carried.

    With --grid the clips are judged again in every noise of the corpus at 20 to 0 dB, and 20 dB quieter to 10 dB
    louder in two rooms. A run keeps its grid, for its report.

    \b
    Example:
      $ hark evaluate runs/student --data speech_commands --keyword happy --speech speech
      $ hark evaluate runs/student --data speech_commands --keyword happy --speech speech --grid
    """
    from hark.learning.dataset import load_task
    from hark.proof.evaluation import judge_clips, judge_stream, score_clips

    if out and not with_grid:
        raise UsageError("--out is where a grid is written, and there is none; add --grid")
    if corpus["split"] == "whole":
        raise UsageError("--split whole leaves nothing to judge on, for all clips train; choose another")
    runner = open_runner(model)
    _require_keyword(model, runner.labels[-1], corpus["keyword"])
    given = source(corpus, cache=Path("runs"))
    loaded = load_task(given, fold=fold)
    _warn_of_known_data(model, loaded)
    testing, validation = score_clips(runner, loaded.testing), score_clips(runner, loaded.validation)
    told = {"reset": judge_clips(testing, loaded.testing)}
    told["carried"] = judge_stream(runner, loaded, validation=validation, testing=testing)
    grid = _judge_grid(model, runner, loaded, given.noise_files, out) if with_grid else None
    if as_json:
        print_json(told | ({"grid": grid.as_dict()} if grid else {}))
        return
    _print_judgement(told["reset"], told["carried"], by="speaker" if loaded.names_speakers else "file")
    if grid:
        _print_grid(grid)


def _warn_of_known_data(model: Path, task: Task) -> None:
    """A model that ships has trained on all of its corpus."""
    if model.suffix == SUFFIX and card_file(model).exists() and read_card(model).data.digest == task.digest:
        say(f"{model.stem} has trained on these very clips: the figures say nothing of others; its card does")


def _print_judgement(clips: dict[str, Any], stream: dict[str, Any], *, by: str) -> None:
    low, high = clips["interval"]
    click.echo(
        f"reset per clip   1-AUC {clips['one_minus_auc']:.5f} (95 % interval by {by} {low:.5f}-{high:.5f}), "
        f"0.02587*(1-AUC) {clips['at_reference_prior']:.3e}\n"
        f"                 {clips['positives']} of {clips['clips']} clips are the keyword, "
        f"accuracy {clips['accuracy']:.4f}\n"
        f"carried stream   {stream['misses_carried']} of {stream['words']} words missed at threshold "
        f"{stream['threshold']:.3f} ({stream['misses_reset']} when reset), {stream['statement']}"
    )


def _judge_grid(model: Path, runner: Runner, task: Task, noises: Sequence[Path], out: Path | None) -> Robustness:
    """The grid, written to `out` and into the run that `model` is."""
    from hark.files import to_json, write_atomically
    from hark.proof.robustness import GRID_FILE, GRID_SCORES_FILE, judge_grid, judging_noises, score_grid
    from hark.record.runs import ABOUT, Run

    run = Run.open(model) if (model / ABOUT).is_file() else None
    judged_on = run.read_json("task.json").get("digest") if run else task.digest
    if judged_on != task.digest or (run and run.about.get("fold") != task.fold):
        raise UsageError(
            f"{model}: was made from other data or another fold; give its own, or the model file alone"
        )
    point = runner.operating_point if isinstance(runner, Model) else None
    scored = score_grid(runner, task.testing, judging_noises(task, noises))
    grid = judge_grid(scored, threshold=point.threshold if point else None)
    if out:
        write_atomically(out, (to_json(grid.as_dict(), indent=2) + "\n").encode())
    if run:
        write_atomically(run.path(GRID_SCORES_FILE), scored.to_bytes())
        run.write_json(GRID_FILE, grid.as_dict())
    return grid


def _print_grid(grid: Robustness) -> None:
    from hark.sound.conditions import noise_table, room_table

    cells = {cell.condition: cell for cell in grid.cells}
    has_point = grid.threshold is not None
    counted = f", misses of {grid.positives} at threshold {grid.threshold:.3f}" if has_point else ""
    for title, table in {"in noise": noise_table(grid.noises), "gain and room": room_table()}.items():
        columns = next(iter(table.values()))
        click.echo(f"\n{title}: 1-AUC{counted}\n{'':18}" + "".join(f"{name:>14}" for name in columns))
        for name, row in table.items():
            judged = [cells[condition] for condition in row.values()]
            shown = (f"{c.one_minus_auc:.5f}" + (f" {c.misses:>5}" if has_point else "") for c in judged)
            click.echo(f"{name:18}" + "".join(f"{text:>14}" for text in shown))


@click.command(name="check-stream")
@MODEL
@click.option("--step", "steps", type=click.IntRange(1), multiple=True, default=(1, 10, 20), show_default=True,
              help="Frames in a chunk; may come again.")  # fmt: skip
@corpus_options
@FOLD
@click.option("--plot", type=PATH, help="Write the posterior over time to this SVG file.")
@AS_JSON
def check_stream(
    model: Path, steps: tuple[int, ...], plot: Path | None, as_json: bool, fold: int, **corpus: Any
) -> None:
    """Stream nine clips, the keyword in the middle, in chunks of so many frames; compare with offline.

    Exits with 1 where a difference is above 1e-5.

    \b
    Example:
      $ hark check-stream runs/student --data speech_commands --keyword happy --step 10 --step 20
    """
    from hark.learning.dataset import load_task
    from hark.proof.evaluation import check_stream as check
    from hark.proof.evaluation import nine_clips

    runner = open_runner(model)
    _require_keyword(model, runner.labels[-1], corpus["keyword"])
    loaded = load_task(source(corpus, cache=Path("runs")), fold=fold)
    clips, labels = nine_clips(loaded.testing, sample_rate=runner.sample_rate)
    result = check(runner, clips, labels=labels, chunk_frames=steps)
    if plot:
        from hark.files import write_atomically
        from hark.showing.charts import posterior_over_time

        write_atomically(plot, posterior_over_time(result, title="Posterior over nine clips").encode())
    if as_json:
        print_json(result)
        return
    click.echo(
        f"nine clips: {', '.join(labels)}; the keyword from {result['word'][0]:g} s to {result['word'][1]:g} s"
    )
    for row in result["chunks"]:
        frames = row["chunk_frames"]
        click.echo(f"chunks of {frames:>4} frames: largest difference to offline {row['largest_difference']:.2e}")
    inside = [p for t, p in zip(result["times_s"], result["posteriors"], strict=True)
              if result["word"][0] <= t <= result["word"][1] + 0.5]  # fmt: skip
    click.echo(f"highest posterior within the keyword and 0.5 s after it: {max(inside):.3f}")


def _require_keyword(path: Path, spotted: str, keyword: str) -> None:
    """The model at `path` must spot `keyword`: another's figures would look like any other."""
    if spotted != keyword:
        raise UsageError(f"{path}: spots {spotted!r}, --keyword is {keyword!r}; make them the same")


@click.command()
@click.argument("files", metavar="[MODEL] FILES...", nargs=-1)
@click.option("--model", type=MODEL_PATH, help="Instead of the first of the arguments.")
@point_options
@click.option("--truth", type=PATH, help="A manifest of where the keyword is: count hits, misses, alarms instead.")
@AS_JSON
def detect(files: tuple[str, ...], model: Path | None, truth: Path | None, as_json: bool, **point: Any) -> None:
    """Find the keyword in FILES of any length, format and rate, in constant memory.

    MODEL is the name of a model that comes with hark, a .hark file, a run, a model.safetensors, or an ONNX graph
    of hark. The operating point is the file's own, but for what is given here; without one, the threshold is 0.5.

    \b
    Example:
      $ hark detect --model happy-tiny evening.flac
      $ hark detect runs/student evening.flac --threshold 0.8
      evening.flac  12.480 s  0.973
      $ hark detect runs/student --truth evening.jsonl
      2 words, 0 missed; 1 alarm in 0.52 h: 1.9 per hour (95 % interval 0.05-10.7)
    """
    if model is None:
        if not files:
            raise UsageError("no model, expected its name or path before the FILES, or --model")
        model, files = find(files[0]), files[1:]
    if bool(files) == bool(truth):
        raise UsageError("expected either FILES or --truth MANIFEST")
    runner = open_runner(model)
    stored = (runner.operating_point if isinstance(runner, Model) else None) or OperatingPoint(0.5)
    operating = dataclasses.replace(stored, **{name: value for name, value in point.items() if value is not None})
    if truth:
        _print_outcome(runner, truth, operating, as_json)
    else:
        _print_detections(runner, tuple(map(Path, files)), operating, as_json)


def _print_detections(runner: Runner, files: tuple[Path, ...], point: OperatingPoint, as_json: bool) -> None:
    found = ((path, detection) for path in files for detection in detections_in(runner, path, point))
    if as_json:
        print_json([{"file": str(path), "time_s": d.time_s, "score": d.score} for path, d in found])
        return
    any_found = False
    for path, detection in found:
        any_found = True
        click.echo(f"{path}  {detection.time_s:.3f} s  {detection.score:.3f}")
    if not any_found:
        say(f"no detection at threshold {point.threshold:.6g}")


def _print_outcome(runner: Runner, truth: Path, point: OperatingPoint, as_json: bool) -> None:
    from hark.sound.corpus import read_manifest

    outcome = judge_recordings(runner, read_manifest(truth), point)
    if as_json:
        print_json(outcome)
        return
    click.echo(f"{outcome['words']} words, {outcome['misses']} missed; {outcome['statement']}")
