"""The command of a run: kept as it was given, read back as text, and never more than that."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hark.errors import RunError
from hark.record.command import COMMAND, Command
from hark.record.runs import Run
from test_status import JSON

GIVEN = Command(("train", "--keyword", "hey hark"), Path("/home"), ("base",))
# What an operating system can pass on: any bytes without NUL, be they text or not.
ARGUMENT = st.binary().map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.create(tmp_path_factory.mktemp("runs"), "base", about={})


@given(arguments=st.lists(ARGUMENT | st.sampled_from(["NaN", "-Infinity"])), folder=ARGUMENT)
def test_a_command_reads_back_as_it_was_given(run: Run, arguments: list[str], folder: str) -> None:
    Command(tuple(arguments), Path("/", folder)).keep_in(run, stages=["base", "int8"])
    assert Command.kept_in(run) == Command(tuple(arguments), Path("/", folder), ("base", "int8"))


def test_it_reads_as_one_would_type_it() -> None:
    assert str(GIVEN) == "hark train --keyword 'hey hark'"


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_file_that_holds_anything_else_is_an_error_of_one_line(run: Run, content: bytes) -> None:
    run.path(COMMAND).write_bytes(content)
    with pytest.raises(RunError, match=r"command.json: expected the command .*; give that command again") as error:
        Command.kept_in(run)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": "train"},
        {"arguments": ["train", 1]},
        {"arguments": ["train", "a\0b"]},
        {"arguments": ["train", "\ud800"]},
        {"folder": None},
        {"folder": "a\0b"},
        {"stages": ["../../other"]},
        {"stages": ["/"]},
        {"stages": {"base": 1}},
    ],
)
def test_a_field_of_another_kind_is_refused(run: Run, change: dict[str, Any]) -> None:
    whole = {"arguments": ["train"], "folder": "/", "stages": ["base"]}
    run.path(COMMAND).write_text(json.dumps(whole))
    assert Command.kept_in(run).arguments == ("train",)
    run.path(COMMAND).write_text(json.dumps(whole | change))
    with pytest.raises(RunError, match=r"command.json: expected the command"):
        Command.kept_in(run)


def test_neither_depth_nor_size_nor_a_pipe_can_harm(run: Run) -> None:
    path = run.path(COMMAND)
    path.write_text("[" * 100_000)
    with pytest.raises(RunError, match=r"command.json: expected the command"):
        Command.kept_in(run)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RunError, match="not a regular file"):
        Command.kept_in(run)
    path.unlink()
    with pytest.raises(RunError, match="not there; the run was not made by a command"):
        Command.kept_in(run)
