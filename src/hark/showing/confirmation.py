"""What the chosen of a search came to when they were made anew: on the test parts, and against the base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hark.exploring.front import Found
from hark.judging.metrics import PairedDifference, paired_difference
from hark.showing.results import Costs, Setting
from hark.showing.study import Study
from hark.showing.wording import count, significant

COLUMNS = ("folds", "MACs", "bytes", "test parts, 1e-5", "95 % interval", "less the base", "95 % interval")


@dataclass(frozen=True)
class Confirmation:
    """One of the chosen, judged; figures are 0.02587 · (1 − AUC) in 1e-5."""

    name: str
    costs: Costs
    by_fold: dict[int, float]
    mean: PairedDifference | None
    """With Student's interval over the folds; None while there are fewer than two."""
    less_base: PairedDifference | None
    """Its figures less the base's, fold by fold."""

    @property
    def average(self) -> float:
        """Over the folds so far."""
        return sum(self.by_fold.values()) / len(self.by_fold)

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands under `COLUMNS`."""
        figures = count(len(self.by_fold)), count(self.costs.macs_per_clip), count(self.costs.file_bytes)
        less = significant(self.less_base.mean) if self.less_base else "–"
        return *figures, significant(self.average), _interval(self.mean), less, _interval(self.less_base)

    @property
    def in_words(self) -> str:
        """All of it in a line."""
        folds, macs, size, average, interval, less, less_interval = self.cells
        return (
            f"{self.name}: {macs} MACs, {size} bytes, {average}e-5 {interval} on the test parts of {folds} folds; "
            f"less the base {less} {less_interval}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `front.json` has them."""
        return {
            "name": self.name,
            "macs": self.costs.macs_per_clip,
            "macs_per_second": self.costs.macs_per_second,
            "bytes": self.costs.file_bytes,
            "by_fold": self.by_fold,
            "mean": self.average,
            "interval": [self.mean.low, self.mean.high] if self.mean else None,
            "less_base": self.less_base._asdict() if self.less_base else None,
        }


def confirmations(study: Study, found: Found) -> list[Confirmation]:
    """The chosen in their order, as far as they were judged."""
    by_name = {setting.name: setting for setting in study.judged}
    base = study.base_of("ours")
    return [_confirmation(by_name[name], base) for name in found.chosen if name in by_name]


def _confirmation(setting: Setting, base: Setting | None) -> Confirmation:
    assert setting.costs is not None  # it is judged
    mine, theirs = _by_fold(setting), _by_fold(base) if base else {}
    shared = sorted(mine.keys() & theirs.keys())
    return Confirmation(
        name=setting.name,
        costs=setting.costs,
        by_fold=mine,
        mean=paired_difference([*mine.values()], [0.0] * len(mine)) if len(mine) > 1 else None,
        less_base=paired_difference([mine[k] for k in shared], [theirs[k] for k in shared])
        if len(shared) > 1
        else None,
    )


def _by_fold(setting: Setting) -> dict[int, float]:
    return {fold: 1e5 * value for fold, value in setting.by_fold("at_reference_prior").items()}


def _interval(difference: PairedDifference | None) -> str:
    return f"[{significant(difference.low)}, {significant(difference.high)}]" if difference else "–"
