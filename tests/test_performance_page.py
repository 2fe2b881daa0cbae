"""docs/performance.md follows from benchmarks/results/streams.jsonl, and its verdicts from the goals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks" / "streams"
sys.path.insert(0, str(BENCHMARKS))

from page import PAGE, RESULTS, goals, page  # noqa: E402


@pytest.fixture
def results() -> dict[str, Any]:
    """Those of the newest run."""
    newest: dict[str, Any] = json.loads(RESULTS.read_text().splitlines()[-1])
    return newest


def test_the_page_is_what_the_newest_results_say(results: dict[str, Any]) -> None:
    assert PAGE.read_text() == page(results), "run: python benchmarks/bench_streams.py --page-only"


@pytest.mark.parametrize(
    ("first_round", "found", "verdict"), [(41.0, "41× (1 to 200)", "met"), (39.0, "39× (1 to 200)", "missed")]
)
def test_a_ratio_is_taken_within_each_round_and_its_median_decides(
    results: dict[str, Any], first_round: float, found: str, verdict: str
) -> None:
    results["contenders"] = {name: {} for name in results["contenders"]} | {
        "stage 2, int8": {"us_rounds": [1.0, 2.0, 4.0]},
        "pymicro-wakeword": {"us_rounds": [first_round, 400.0, 4.0]},
    }
    ratio = goals(results)[0]
    assert (ratio.found, ratio.verdict) == (found, verdict)


def test_a_late_round_misses_the_goal_of_live_streams(results: dict[str, Any]) -> None:
    verdicts = []
    for late in (0, 1):
        results["live"]["late_rounds"] = late
        verdicts.append(goals(results)[-1].verdict)
    assert verdicts == ["met", "missed"]


def test_a_peer_that_does_not_run_is_shown_with_its_reason_and_judges_nothing(results: dict[str, Any]) -> None:
    results["contenders"]["openWakeWord"] = {"failed": "not installed"}
    assert "| openWakeWord | not installed |" in page(results)
    assert not any("openWakeWord" in goal.what for goal in goals(results))
