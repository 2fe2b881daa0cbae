"""Results and numbers in words, the same way everywhere: thousands separated, three significant digits."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hark.showing.reference_report import BAR, HEADLINE
from hark.showing.results import Setting
from hark.showing.study import Study

FRAME_MS = 10
_UNIT = "\u00a0×\u00a010⁻⁵"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

SPLITS = {
    "speakers": " by speaker",
    "official": ", the corpus's official split",
    "random": ", random by clip, so that speakers are on both sides",
    "manifest": ", the manifest's own split",
}


def headline(study: Study) -> list[str]:
    """The result in plain words: what was reached, then how it is meant, one sentence each."""
    smallest = study.smallest
    result = _no_result(study) if smallest is None else _result(study, smallest)
    return [next(result), *_task_in_words(study), *result, *_proof_in_words(study)]


def _result(study: Study, smallest: Setting) -> Iterator[str]:
    costs, factors, base = smallest.costs, study.factors(smallest), study.base_of(smallest.group)
    assert costs and factors and base and smallest.metric
    if smallest is base:
        yield f"“{base.name}” is the smallest model within the bar"
    else:
        less = f"{times(factors.macs)} fewer MACs and a {times(factors.bytes)} smaller file"
        yield f"“{smallest.name}”: {less} than “{base.name}”"
    over = f"mean ± standard deviation over {len(study.folds)} folds" if len(study.folds) > 1 else "one fold"
    metric = _in_units(smallest.metric)
    yield (
        f"This is the smallest model within the bar of {BAR}{_UNIT}: it reaches {metric} ({over}) "
        f"with {count(costs.macs_per_clip)} MACs per clip and {count(costs.file_bytes)} bytes."
    )
    macs, size = HEADLINE
    yield f"The reference report printed {times(macs)} fewer MACs and a {times(size)} smaller file."


def _no_result(study: Study) -> Iterator[str]:
    best = min(study.judged, key=lambda setting: setting.metric or (math.inf, 0.0), default=None)
    if best is None or best.metric is None:
        yield "No model has been judged yet"
    else:
        yield f"“{best.name}” hears best: {_in_units(best.metric)}"
        bar = f"the bar that the reference report was set, {BAR}{_UNIT}"
        yield f"The figure is 0.02587 · (1 − AUC); {bar}, is not reached."


def _task_in_words(study: Study) -> Iterator[str]:
    tasks = [result.task for result in study.results if result.task]
    task = next((task for task in tasks if task.get("split") != "whole"), None)
    if task is None:
        return
    folds = f"{len(study.folds)} folds" if len(study.folds) > 1 else "one fold"
    clips, positives, speakers = (count(task[name]) for name in ("clips", "positives", "speakers"))
    length_s, names_speakers = task.get("clip_s", 1.0), task.get("names_speakers", True)
    of, by = f", of {speakers} speakers", SPLITS[task.get("split", "speakers")]
    if not names_speakers:
        of, by = "", by.replace("by speaker", "by file")
    yield (
        f"The task: spot “{task['keyword']}” among {clips} clips, {positives} of them positive{of}; "
        f"judged on {folds}{by}."
    )
    if length_s != 1:
        yield f"All clips are made {length_s:g} s long: longer ones are cut, shorter ones end in silence."
    if not names_speakers:
        yield "No speaker is named twice: each file counts as one of its own, and a voice may be on both sides."


def _proof_in_words(study: Study) -> Iterator[str]:
    rows = study.chunk_differences.values()
    if not rows:
        return
    largest = max(difference for row in rows for difference in row.values())
    shortest, longest = min(min(row) for row in rows), max(max(row) for row in rows)
    chunks = f"chunks of {shortest * FRAME_MS} to {longest * FRAME_MS} ms"
    off = f"differs from offline by at most {significant(largest)}" if largest else "equals offline exactly"
    yield f"Fed as a stream in {chunks}, the posterior of every model checked {off}."


def _in_units(metric: tuple[float, float]) -> str:
    shown = mean_and_spread(metric)
    return f"({shown}){_UNIT}" if "±" in shown else f"{shown}{_UNIT}"


def count(number: float) -> str:
    """A whole number with separators between the thousands."""
    return f"{round(number):,}"


def significant(number: float, digits: int = 3) -> str:
    """Three significant digits; very small and very large numbers as a power of ten."""
    if number == 0 or not math.isfinite(number):
        return "0" if number == 0 else "–"
    exponent = math.floor(math.log10(abs(float(f"{number:.{digits - 1}e}"))))
    if -4 <= exponent < 6:
        return f"{number:,.{max(0, digits - 1 - exponent)}f}".replace("-", "−")
    mantissa = f"{number / 10**exponent:.{digits - 1}f}".replace("-", "−")
    return f"{mantissa}\u00a0×\u00a010{str(exponent).translate(_SUPERSCRIPT)}"


def mean_and_spread(value: tuple[float, float], scale: float = 1.0) -> str:
    """A mean and its spread with the same decimals: `0.812 ± 0.211`; the mean alone where nothing spreads."""
    mean, spread = (scale * part for part in value)
    shown = significant(mean)
    if not math.isfinite(spread):
        return shown
    decimals = len(shown.partition(".")[2]) if mean else 3
    return f"{shown} ± {spread:.{decimals}f}"


def times(factor: float) -> str:
    """A factor with three significant digits and its sign."""
    return f"{significant(factor)}×" if factor != 1 else "1×"


def web_address(url: object) -> str | None:
    """An address that is safe to link to, else None."""
    return url if isinstance(url, str) and url.startswith(("https://", "http://")) else None


FILTERS = {
    "count": count,
    "significant": significant,
    "spread": mean_and_spread,
    "times": times,
    "link": web_address,
}
"""By the names that a template calls them."""
