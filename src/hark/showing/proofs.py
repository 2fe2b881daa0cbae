"""What the checks of all runs have proved, setting by setting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hark.showing.results import Setting


@dataclass(frozen=True)
class Proof:
    """One check over all runs of a setting."""

    runs: int
    failed: int
    largest_difference: float
    allowed: float


@dataclass(frozen=True)
class Proofs:
    """A row for each setting that was verified, a column for each check."""

    names: tuple[str, ...]
    rows: dict[Setting, dict[str, Proof]]

    @property
    def checks(self) -> int:
        """How many were made."""
        return sum(proof.runs for row in self.rows.values() for proof in row.values())

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(proof.failed for row in self.rows.values() for proof in row.values())


def proofs_of(settings: Iterable[Setting]) -> Proofs:
    """The worst of each check over the runs of each setting."""
    rows = {setting: row for setting in settings if (row := _row(setting))}
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return Proofs(tuple(names), rows)


def _row(setting: Setting) -> dict[str, Proof]:
    verified = [result.verification for result in setting.results if result.verification is not None]
    names = dict.fromkeys(check.name for verification in verified for check in verification.checks)
    row = {}
    for name in names:
        checks = [check for verification in verified for check in verification.checks if check.name == name]
        row[name] = Proof(
            runs=len(checks),
            failed=sum(not check.passed for check in checks),
            largest_difference=max(check.largest_difference for check in checks),
            allowed=min(check.allowed for check in checks),
        )
    return row
