"""`hark verify`: the proof that an artefact streams, and that it gives what it was made from gives."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hark.cli.options import AS_JSON, MODEL, MODEL_PATH, model_file, open_runner
from hark.record.runs import PACKED_FILE

if TYPE_CHECKING:
    from hark.proof.checks import Check


@click.command()
@MODEL
@click.option("--against", type=MODEL_PATH, help="Another form of the same model, which must give the same.")
@click.option("--seconds", type=click.FloatRange(10, 86_400), default=3600, show_default=True,
              help="Heard in one go; for an hour the engine takes seconds, torch minutes.")  # fmt: skip
@AS_JSON
def verify(model: Path, against: Path | None, seconds: float, as_json: bool) -> None:
    """Prove MODEL: a run, a .hark file, an ONNX graph, or a model of torch.

    It is held to the laws of streaming, on sound that tries them: the same outputs in random chunks as in one
    call, after a reset, beside another stream, for an hour. A .hark file must also equal its NumPy reference to
    the last bit, and in a run agree with the model that it was made from. Exits with 1 where a check fails.

    \b
    Example:
      $ hark verify runs/student
      $ hark verify word.onnx --against word.hark
    """
    from hark.files import to_json
    from hark.proof.checks import Verification

    checks: list[Check] = []
    for check in _checks(model, against, seconds):
        if not (checks or as_json):  # not before the model has been opened
            _print_row("compared", "steps", "difference", "allowed", "differs at", "")
        checks.append(check)
        if not as_json:
            _print_check(check)
    verification = Verification(artefact=str(model), checks=tuple(checks))
    if as_json:
        click.echo(to_json(verification.as_dict(), indent=2))
    verification.require()


def _checks(model: Path, against: Path | None, seconds: float) -> Iterator[Check]:
    """All checks of what a path names, each made when it is asked for."""
    match model.suffix:
        case ".hark":
            from hark.proof.packed_verification import packed_checks
            from hark.runtime import Model

            yield from packed_checks(Model(model).file, seconds=seconds)
        case ".onnx":
            from hark.proof.agreement import name_of
            from hark.proof.laws import LOGITS, law_checks

            runner = open_runner(model)
            yield from law_checks(runner, name_of(runner), outputs=LOGITS, allowed=0.0, seconds=seconds)
        case _:
            yield from _trained_checks(model, seconds)
    if against is not None:
        from hark.proof.agreement import agreement_check

        yield agreement_check(open_runner(model), open_runner(against), seconds=seconds)


def _trained_checks(model: Path, seconds: float) -> Iterator[Check]:
    """Of a run, with the `.hark` file that it ships; or of a model file alone."""
    from hark.proof.verification import spotter_checks
    from hark.runtime import Model
    from hark.storage.model_files import load

    packed = model / PACKED_FILE
    file = Model(packed).file if packed.exists() else None
    yield from spotter_checks(load(model_file(model)), file, seconds=seconds, packed_seconds=seconds)


def _print_check(check: Check) -> None:
    _print_row(
        check.compared,
        f"{check.steps:,}",
        f"{check.largest_difference:.1e}" if check.largest_difference else "0",
        f"{check.allowed:.0e}" if check.allowed else "0",
        "" if check.first_differing_step is None else f"{check.first_differing_step:,}",
        "ok" if check.passed else "failed",
    )


def _print_row(*cells: str) -> None:
    compared, steps, difference, allowed, place, verdict = cells
    click.echo(f"{compared:<64}{steps:>9}{difference:>12}{allowed:>9}{place:>12}  {verdict}".rstrip())
