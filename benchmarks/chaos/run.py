"""All fault tests, then plain Lightning and wandb under the same faults; writes docs/reliability.md.

    python benchmarks/chaos/run.py [--jobs 2] [--page-only]

Exits with 1 where a fault test fails. `--page-only` writes the page anew from the last results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peers import SCENARIOS, measure, versions

from hark.record.environment import environment

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "chaos.json"
PAGE = ROOT / "docs" / "reliability.md"
FAULTS: dict[str, str] = tomllib.loads((HERE / "faults.toml").read_text())


def main() -> None:
    """Test, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time")
    parser.add_argument("--page-only", action="store_true", help="write the page from the last results")
    options = parser.parse_args()
    if not options.page_only:
        results = {
            "date": datetime.now(UTC).date().isoformat(),
            "environment": environment(),
            "versions": versions(),
            "tests": run_tests(options.jobs),
            "peers": [asdict(measure(scenario)) for scenario in SCENARIOS],
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads(RESULTS.read_text())
    PAGE.write_text(page(results))
    failed = [test["test"] for test in results["tests"] if test["result"] == "failed"]
    print(f"{PAGE}: {len(results['tests'])} tests of {len(FAULTS)} faults, {len(failed)} failed")
    sys.exit("\n".join(failed) if failed else 0)


def run_tests(jobs: int) -> list[dict[str, Any]]:
    """Every test with the mark `fault`, both tiers."""
    record = RESULTS.with_suffix(".jsonl")
    record.unlink(missing_ok=True)
    command = ["-m", "pytest", "-p", "recorder", "-m", "fault", "-n", str(jobs), "tests"]
    search = {"PYTHONPATH": str(HERE), "FAULT_RECORD": str(record)}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=os.environ | search, check=False)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    record.unlink()
    return sorted(lines, key=lambda line: line["test"])


def page(results: dict[str, Any]) -> str:
    """The page's frame, its table filled in."""
    rows = [
        [f"**{fault}** {title}", hark_cell(fault, results["tests"]), *peer_cells(fault, results["peers"])]
        for fault, title in FAULTS.items()
    ]
    head = ["what happens", "hark"] + [f"plain {tool} {number}" for tool, number in results["versions"].items()]
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    where = results["environment"]
    return (
        (HERE / "page.md.in")
        .read_text()
        .format(
            table=table,
            date=results["date"],
            machine=f"{where['machine']}, {where['cpu_count']} cores, Python {where['python']}",
            commit=(where["commit"] or "unknown")[:7],
        )
    )


def hark_cell(fault: str, tests: Sequence[dict[str, Any]]) -> str:
    """What the tests of a fault have measured, and how many there were."""
    mine = [test for test in tests if fault in test["faults"]]
    count = {result: sum(test["result"] == result for test in mine) for result in ("passed", "failed", "skipped")}
    verdict = f"✗ {count['failed']} tests fail" if count["failed"] else f"{count['passed']} tests hold"
    said = dict.fromkeys(outcome for test in mine for outcome in test["outcomes"])
    skipped = dict.fromkeys(f"not run here: {test['reason']}" for test in mine if test["result"] == "skipped")
    return "<br>".join([*(said or ["–"]), *skipped, f"({verdict})"])


def peer_cells(fault: str, peers: Sequence[dict[str, str]]) -> list[str]:
    """What became of each peer; a dash where it was not tried."""
    return [
        "<br>".join(peer["outcome"] for peer in peers if (peer["fault"], peer["tool"]) == (fault, tool)) or "–"
        for tool in versions()
    ]


if __name__ == "__main__":
    main()
