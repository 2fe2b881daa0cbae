"""Where a run was made, and how two configurations differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hark.record import environment as environment_module
from hark.record.environment import differences, environment

configs = st.recursive(
    st.integers() | st.text() | st.lists(st.integers()), lambda inner: st.dictionaries(st.text(), inner)
)


@settings(max_examples=50, deadline=None)
@given(configs)
def test_a_configuration_does_not_differ_from_itself(config: object) -> None:
    assert differences(config, json.loads(json.dumps(config))) == []


def test_every_field_that_differs_is_named_with_its_path_and_both_values() -> None:
    there = {"kind": "train", "training": {"rate": 0.1, "epochs": 3}, "labels": ["yes"]}
    here = {"kind": "train", "training": {"rate": 0.2, "epochs": 3, "clip": 1}, "labels": ["no"]}
    assert differences(there, here) == [
        "labels: ['yes'] there, ['no'] here",
        "training.clip: nothing there, 1 here",
        "training.rate: 0.1 there, 0.2 here",
    ]


def test_the_environment_names_versions_machine_and_data() -> None:
    found = environment(data_digest="abc")
    assert json.loads(json.dumps(found)) == found
    assert found["data_digest"] == "abc"
    packages = found["packages"]
    assert isinstance(packages, dict)
    assert packages["numpy"] == np.__version__
    assert set(packages) == {"hark-kws", "numpy", "torch", "soundfile"}


def test_threads_are_what_the_user_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment()["threads"] == 3


def test_the_commit_is_unknown_where_git_is_not_installed_or_the_code_not_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_module, "__file__", str(tmp_path / "environment.py"))
    assert environment()["commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["commit"] is None
