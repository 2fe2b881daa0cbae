"""Going on: the kept command is given again and nothing else is, whatever stands in its file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from hark.cli import cli, resuming
from hark.errors import HarkError, RunBusy, RunError, UsageError
from hark.learning.dataset import Source
from hark.recipes import stages
from hark.record.command import COMMAND, Command
from hark.record.runs import OUTPUT, Run

TRAIN = ("train", "--data", "corpus", "--keyword", "x", "--network", "base", "--out", "runs/base")
Call = tuple[list[str], Path]
Started = list[subprocess.Popen[bytes]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the command was given; the test itself stands elsewhere."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def run(home: Path) -> Run:
    """A run that a command has made there."""
    run = Run.create(home / "runs", "base", about={"kind": "train"})
    Command(TRAIN, home).keep_in(run, stages=["base"])
    return run


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What hark is called with instead of doing it, and where."""
    made: list[Call] = []
    monkeypatch.setattr(cli, "main", lambda args, **_: made.append((args, Path.cwd())))
    return made


def resume(run: Run | Path) -> Result:
    folder = run.folder if isinstance(run, Run) else run
    return CliRunner().invoke(resuming.resume, [str(folder)])


def refusal(result: Result, kind: type[HarkError] = RunError) -> str:
    """The one line with which a command refused."""
    assert isinstance(result.exception, kind), result.exception
    assert str(result.exception).isprintable()
    return str(result.exception)


def test_the_command_is_given_again_where_it_was_given(run: Run, home: Path, calls: list[Call]) -> None:
    before = Path.cwd()
    told = resume(run)
    assert told.exit_code == 0
    assert told.stderr == f"in {home}: hark {' '.join(TRAIN)}\n"
    assert calls == [(list(TRAIN), home)]
    assert Path.cwd() == before


def test_a_run_of_a_recipe_goes_on_with_the_recipe(home: Path, calls: list[Call]) -> None:
    arguments = ("reproduce", "--data", "corpus", "--keyword", "x", "--jobs", "2")
    done, begun = (Run.create(home / "runs" / "mini" / "fold-0", name, about={}) for name in ("base", "int8"))
    for run in (done, begun):
        Command(arguments, home).keep_in(run, stages=["base", "int8", "not-begun"])
    done.log("finished", step=None)
    assert resume(done).exit_code == 0
    begun.log("finished", step=None)
    assert resume(begun).exit_code == 0
    assert calls == [(list(arguments), home)] * 2


def test_what_is_finished_is_left_alone(run: Run, calls: list[Call]) -> None:
    run.log("finished", step=None)
    told = resume(run)
    assert told.exit_code == 0
    assert told.stdout.startswith(f"{run.folder}: finished, and so is all that hark train")
    assert calls == []


RECIPE = """
[training]
epochs = 1
batch_size = 16
[stages.base]
kind = "train"
network = {channels = 2, kernel = [5, 20], stride = [4, 16], hidden = [6], dropout = 0.2}
[stages.int8]
kind = "quantize"
model = "base"
"""


def test_a_recipe_that_was_interrupted_is_finished_from_elsewhere(
    home: Path, tiny_source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was done is done again."""
    publish = stages.publish

    def dying(run: Run, *rest: Any, **options: Any) -> None:
        if run.name == "int8":
            raise KeyboardInterrupt
        publish(run, *rest, **options)

    (home / "mine.toml").write_text(RECIPE)
    corpus = ["--data", str(tiny_source.root), "--keyword", "beep", "--folds", "2", "--device", "cpu"]
    with monkeypatch.context() as patch, pytest.raises(click.Abort):
        patch.chdir(home)
        patch.setattr(stages, "publish", dying)
        cli.main(["train", "mine.toml", *corpus], standalone_mode=False)
    base, int8 = (Run.open(home / "runs" / "mine" / "fold-0" / name) for name in ("base", "int8"))
    before = base.event_log.history()
    assert (str(base.status), str(int8.status)) == ("finished", "interrupted by SIGINT")
    assert base.status.step == base.status.total == 3
    assert resume(int8).exit_code == 0
    assert int8.is_finished
    assert base.event_log.history() == before


@pytest.mark.parametrize("held", ["base", "int8"])
def test_a_live_run_and_one_beside_a_live_one_are_refused(
    run: Run, home: Path, calls: list[Call], held: str
) -> None:
    sibling = Run.create(home / "runs", "int8", about={})
    Command(TRAIN, home).keep_in(run, stages=["base", "int8"])
    with (run if held == "base" else sibling).locked():
        told = refusal(resume(run), RunBusy)
    assert f"{held}: process {os.getpid()} on " in told
    assert calls == []


def test_a_run_that_was_moved_is_not_begun_anew_where_it_was(run: Run, home: Path, calls: list[Call]) -> None:
    moved = run.folder.rename(home / "kept")
    assert f"its kept command writes to {home}/runs/base, not to it" in refusal(resume(moved))
    away = home.rename(home.parent / "away")
    told = refusal(resume(away / "kept"))
    assert f"was made in {home}, which cannot be entered (No such file or directory)" in told
    assert "give its command yourself: hark train --data corpus" in told
    assert calls == []


def test_what_is_no_run_and_a_run_without_a_command_are_refused(run: Run, home: Path, calls: list[Call]) -> None:
    assert "it is not a run" in refusal(resume(home))
    run.path(COMMAND).unlink()
    assert "the run was not made by a command" in refusal(resume(run))
    assert calls == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "'': expected one of train, distill"),
        (["cost", "base"], "'cost': expected one of train, distill"),
        (["--help"], "'--help': expected one of train, distill"),
        (["train", "--help"], "train: it only asks for help"),
        (["train", "--network", "base"], "train: Missing option"),
        ([*TRAIN, "--loud"], "train: No such option"),
        ([*TRAIN[:-1], "/elsewhere"], "writes to /elsewhere, not to it"),
    ],
)
def test_a_kept_command_that_was_changed_is_refused(
    run: Run, home: Path, calls: list[Call], arguments: list[str], said: str
) -> None:
    Command(tuple(arguments), home).keep_in(run, stages=["base"])
    assert said in refusal(resume(run))
    assert calls == []


WORDS = (*TRAIN, *resuming.DETACHABLE, "cost", "--help", "--set", "a=b", "; touch canary", "$(touch canary)")
CHANGED = (
    st.lists(st.sampled_from(WORDS) | st.text(), max_size=10)
    | st.builds(
        lambda place, word: [*TRAIN[:place], word, *TRAIN[place + 1 :]], st.integers(0, len(TRAIN) - 1), st.text()
    )
    | st.text().map(lambda text: [*TRAIN, "--set", text])
)
FOLDERS = st.sampled_from([None] * 8 + ["/", "..", "none", "a\0b", "\ud800"])


@pytest.mark.fault("F27")
def test_no_change_of_the_file_makes_anything_happen_but_learning_into_that_run(
    run: Run, home: Path, calls: list[Call], record_property: Callable[[str, object], None]
) -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=100)
    @given(arguments=CHANGED, folder=FOLDERS)
    def change(arguments: list[str], folder: str | None) -> None:
        calls.clear()
        given_in = home if folder is None else Path(folder)
        kept = {"arguments": arguments, "folder": str(given_in), "stages": ["base"]}
        run.path(COMMAND).write_text(json.dumps(kept))
        result = resume(run)
        if result.exception is not None:
            refusal(result, HarkError)
            assert calls == []
        else:
            ((called, where),) = calls
            assert called == arguments
            assert called[0] in resuming.LEARNING
            assert run.folder.is_relative_to((where / out_of(called)).resolve())
        outcomes["learning" if calls else "refused"] += 1

    change()
    assert not list(home.rglob("*canary*"))
    assert outcomes["refused"]
    assert outcomes["learning"]
    record_property(
        "outcome",
        f"{outcomes.total()} changed `command.json`: {outcomes['refused']} refused in one line, "
        f"{outcomes['learning']} still a training into that run, nothing else was done",
    )


def out_of(arguments: list[str]) -> str:
    """The last --out; trainings have one for those who name none."""
    places = [place for place, word in enumerate(arguments[:-1]) if word == "--out"]
    return arguments[places[-1] + 1] if places else "runs"


@pytest.fixture
def starting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Started]]:
    """Sets the script that is started in place of hark and gives what is; the test's end ends it."""
    started: Started = []

    def with_script(script: str) -> Started:
        def start(command: Any, output: int) -> subprocess.Popen[bytes]:
            started.append(subprocess.Popen([sys.executable, "-c", script], stdout=output, stderr=output))
            return started[-1]

        monkeypatch.setattr(resuming, "_start", start)
        return started

    yield with_script
    for process in started:
        process.kill()
        process.wait()


def detach(*arguments: object) -> Result:
    return CliRunner().invoke(resuming.detach, [str(argument) for argument in arguments])


def test_detach_returns_when_a_run_is_under_way(
    tmp_path: Path, starting: Callable[[str], Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    starting(
        "import time; from pathlib import Path; from hark.record.runs import Run\n"
        "print('decoding', flush=True)\n"
        "with Run.open_or_create(Path('runs/base'), about={}).locked(): time.sleep(600)"
    )
    told = detach(*TRAIN)
    assert told.exit_code == 0, told.output
    assert told.stderr == "decoding\n"
    assert told.stdout.endswith(
        "goes on by itself and writes to runs/base/output.log; watch it: hark attach runs/base\n"
    )
    holder = Run.open(Path("runs/base")).holder
    assert holder is not None
    assert f"process {holder.pid} " in told.stdout
    assert Path("runs/base", OUTPUT).read_text() == "decoding\n"


def test_ctrl_c_ends_the_waiting_and_not_what_was_started(
    run: Run, starting: Callable[[str], Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    started = starting("import time; time.sleep(600)")
    monkeypatch.setattr(resuming, "_await_run", interrupted)
    told = detach("resume", run.folder)
    assert told.exit_code == 130
    (process,) = started
    assert told.stderr == f"process {process.pid} goes on by itself and writes to {run.path(OUTPUT)}\n"
    assert process.poll() is None


@pytest.mark.parametrize("code", [0, 2, 7])
def test_detach_ends_as_a_command_does_that_ends_before(
    tmp_path: Path, starting: Callable[[str], Started], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/base").mkdir(parents=True)
    Path("runs/base", OUTPUT).write_text("of yesterday\n")
    starting(f"print('hark: so it is'); raise SystemExit({code})")
    told = detach(*TRAIN)
    assert (told.exit_code, told.stdout, told.stderr) == (code, "", "hark: so it is\n")
    assert Path("runs/base", OUTPUT).read_text() == "of yesterday\nhark: so it is\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cost", "base"], "'cost': expected one of train, distill"),
        (["supervise", "cost", "base"], "'cost': expected one of train, distill"),
        (["supervise", "--retries", "-1", *TRAIN], "supervise: Invalid value for '--retries'"),
        (["train", "--network", "base"], "train: Missing option '--data'"),
        (["train", "--help"], "train: it only asks for help; see: hark train --help"),
        (["resume", "none"], "none: has no run.json"),
    ],
)
def test_detach_starts_nothing_that_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resuming, "_start", pytest.fail)
    assert said in refusal(detach(*arguments), HarkError)
    assert list(tmp_path.iterdir()) == []


def test_the_output_of_a_detached_resume_goes_to_its_run(
    run: Run, starting: Callable[[str], Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    starting("print('gone on')")
    assert detach("resume", run.folder).exit_code == 0
    assert run.path(OUTPUT).read_text() == "gone on\n"


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (TRAIN, "runs/base"),
        (TRAIN[:-2], "runs"),
        (("demo",), "demo"),
        (("supervise", "--retries", "2", *TRAIN), "runs/base"),
    ],
)
def test_the_output_goes_where_the_runs_go(arguments: tuple[str, ...], folder: str) -> None:
    assert resuming.output_folder(arguments) == Path(folder)


def test_a_wrong_call_of_detach_is_a_usage_error() -> None:
    assert isinstance(detach("cost", "base").exception, UsageError)
    assert detach().exit_code == 2
