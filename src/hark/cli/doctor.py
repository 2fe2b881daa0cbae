"""`hark doctor`: before a long night, a look at the machine."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from hark.cli.options import PATH, print_json
from hark.record.doctor import Finding, examine

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@click.option("--out", type=PATH, default=Path("runs"), show_default=True, help="Where runs are to go.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list instead of lines.")
def doctor(out: Path, as_json: bool) -> None:
    """Look at the machine before a long night: what could spoil a training, and what to do about it.

    Takes less than five seconds. Exits with 1 if there is a problem.

    \b
    Example:
      $ hark doctor --out runs
      ok       processor      2 cores, AMD EPYC
      warning  memory         2.1 GB by the container's limit, 1.9 GB free; enough for small corpora; ...
      ok       device         no GPU, trains on the CPU; torch 2.13.0+cpu
      ...
      no problem, 1 warning
    """
    findings = examine(out)
    problems, warnings = (sum(finding.verdict == bad for finding in findings) for bad in ("problem", "warning"))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(_line(finding))
        click.echo(f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}")
    sys.exit(1 if problems else 0)


def _line(finding: Finding) -> str:
    verdict = click.style(f"{finding.verdict:<8}", fg=COLOURS[finding.verdict])
    return f"{verdict} {finding.topic:<13}  {'; '.join(filter(None, (finding.said, finding.advice)))}"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' * (number > 1)}"
