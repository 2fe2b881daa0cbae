"""Runs as JSON lines, to be kept beside what is claimed of them.

    python benchmarks/collect_results.py runs/reproduce runs/reference --out benchmarks/results/happy.jsonl

One line per judged run: what it is, how it was made (configuration, seed, commit, machine), what it costs and how
it was judged. Nothing is typed, and nothing is computed here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hark.record.runs import Run, find_runs

JUDGEMENTS = ("evaluation", "stream", "pruning_damage")


def line(run: Run) -> dict[str, Any]:
    """What one run has to say."""
    found = {name: run.read_json(f"{name}.json") for name in JUDGEMENTS if run.path(f"{name}.json").exists()}
    cost = run.read_json("cost.json") if run.path("cost.json").exists() else {}
    streamed = run.read_json("check_stream.json")["chunks"] if run.path("check_stream.json").exists() else None
    return {
        **run.about,
        "recipe": run.folder.parent.parent.name,
        "config": run.config,
        "environment": run.read_json("environment.json"),
        "cost": {key: value for key, value in cost.items() if key != "layers"},
        **found,
        "check_stream": streamed,
    }


def main() -> None:
    """Write the lines of all judged runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    lines = [line(run) for run in find_runs(arguments.runs) if run.is_finished]
    arguments.out.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    print(f"{arguments.out}: {len(lines)} runs")


if __name__ == "__main__":
    main()
