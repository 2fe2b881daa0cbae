"""A pytest plugin: one JSON line for each fault test, with what it measured.

PYTHONPATH=benchmarks/chaos FAULT_RECORD=record.jsonl pytest -p recorder -m fault
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Record a test once: when it has run, or when it failed or was skipped before."""
    report: Any = yield
    faults = [mark.args[0] for mark in item.iter_markers("fault")]
    if faults and (report.when == "call" or not report.passed):
        line = {
            "faults": faults,
            "test": item.nodeid,
            "result": report.outcome,
            "outcomes": [value for name, value in item.user_properties if name == "outcome"],
            "reason": report.longrepr[2].removeprefix("Skipped: ") if report.skipped else "",
        }
        with open(os.environ["FAULT_RECORD"], "a") as file:  # noqa: PTH123 (append, one write a line)
            file.write(json.dumps(line) + "\n")
    return report
