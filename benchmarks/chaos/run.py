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
PRICE, FUZZED = (RESULTS.with_name(f"{name}.jsonl") for name in ("reliability", "fuzz"))
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
        [f"**{fault}** {title}", hark_cell(fault, results["tests"])]
        + [peer_cell(fault, tool, results["peers"]) for tool in results["versions"]]
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
            fuzzed=fuzzed(),
            price=price(),
            date=results["date"],
            machine=f"{where['machine']}, {where['cpu_count']} cores, Python {where['python']}",
            commit=(where["commit"] or "unknown")[:7],
        )
    )


def hark_cell(fault: str, tests: Sequence[dict[str, Any]]) -> str:
    """What the tests of a fault have measured, and how many there were."""
    mine = [test for test in tests if fault in test["faults"]]
    count = {result: sum(test["result"] == result for test in mine) for result in ("passed", "failed", "skipped")}
    if count["failed"]:
        verdict = "✗ fails: " + ", ".join(name_of(test) for test in mine if test["result"] == "failed")
    else:
        verdict = f"{count['passed']} tests hold" if count["passed"] != 1 else "1 test holds"
    said = dict.fromkeys(outcome for test in mine for outcome in test["outcomes"])
    skipped = dict.fromkeys(f"not run here: {test['reason']}" for test in mine if test["result"] == "skipped")
    return "<br>".join([*(said or ["–"]), *skipped, f"({verdict})"])


def name_of(test: dict[str, Any]) -> str:
    """A test's name as a sentence."""
    return str(test["test"]).rpartition("::")[2].removeprefix("test_").replace("_", " ")


def peer_cell(fault: str, tool: str, peers: Sequence[dict[str, str]]) -> str:
    """What became of a peer; a dash where it was not tried."""
    return "<br>".join(peer["outcome"] for peer in peers if (peer["fault"], peer["tool"]) == (fault, tool)) or "–"


def fuzzed() -> str:
    """What benchmarks/fuzz.py has found in its last run of each parser."""
    rows = {row["target"]: row for row in map(json.loads, FUZZED.read_text().splitlines())}.values()
    executions, failures = sum(row["executions"] for row in rows), sum(bool(row["failure"]) for row in rows)
    least_s = min(row["seconds"] for row in rows)
    return (
        f"Coverage-guided fuzzing ([fuzz.py](../benchmarks/fuzz.py)) has executed {executions:,} inputs of "
        f"{len(rows)} parsers, at least {least_s} s for each: {failures} failures "
        f"([results](../benchmarks/results/{FUZZED.name}))."
    )


def price() -> str:
    """What benchmarks/bench_reliability.py has found in its last run."""
    if not PRICE.exists():
        return "Not measured yet: `python benchmarks/bench_reliability.py`."
    row = json.loads(PRICE.read_text().splitlines()[-1])
    reached, taken, goal = _percent(row["throughput"]), _percent(row["processor_time"]), 100 * row["goal"]
    start_s, end_s = row["start_s"]["median"], row["end_s"]["median"]
    return (
        f"A training with all of it, mirrored to {' and '.join(row['trackers'])}, reaches {reached} of the bare "
        f"loop's steps a second (the goal is {goal:.0f} %) and takes {taken} of its processor time. It begins "
        f"{start_s:.2f} s later and ends {end_s:.2f} s after its last step. Medians of {len(row['pairs'])} pairs "
        f"of runs that end with the same weights, byte for byte ([results](../benchmarks/results/{PRICE.name}))."
    )


def _percent(spread: dict[str, float]) -> str:
    return "{median:.1f} % ({low:.1f} to {high:.1f})".format(**{name: 100 * x for name, x in spread.items()})


if __name__ == "__main__":
    main()
