"""Run directories: one writer, one configuration, nothing begun twice in silence."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hark.cli.runs import runs as runs_command
from hark.errors import DiskFull, NoValidCheckpoint, RunBusy, RunError, UsageError
from hark.record.environment import environment
from hark.record.runs import Run, find_runs

ABOUT = {"setting": "base", "kind": "train", "group": "ours", "fold": 0, "seed": 0, "parents": ["a", "b"]}
CONFIG = {"training": {"rate": 0.1, "mels": (20, 40)}}
CREATE = "import sys; from pathlib import Path; from hark.record.runs import Run"

Record = Callable[[str, object], None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path, "base", about=ABOUT, config=CONFIG)


def test_a_new_run_tells_what_it_is(run: Run) -> None:
    assert run.about.items() >= {**ABOUT, "name": "base", "tracker_url": None}.items()
    assert run.config == {"training": {"rate": 0.1, "mels": [20, 40]}}
    assert repr(run) == f"<Run '{run.folder}': stopped at step 0>"
    assert Run.open(run.folder).name == "base"


@pytest.mark.fault("F23")
def test_eight_processes_that_want_one_name_get_eight_folders(tmp_path: Path, record_property: Record) -> None:
    command = [sys.executable, "-c", f"{CREATE}; print(Run.create(Path(sys.argv[1]), 'x', about={{}}).name)"]
    processes = [
        subprocess.Popen([*command, str(tmp_path / "runs")], stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    names = {process.communicate()[0].strip() for process in processes}
    record_property("outcome", f"8 that ask for a new run of one name at once get {len(names)} folders")
    assert names == {"x", *(f"x-{number}" for number in range(2, 9))}
    assert {run.name for run in find_runs([tmp_path])} == names


BEGIN = f"""{CREATE}
from hark.errors import RunBusy
try:
    with Run.open_or_create(Path(sys.argv[1]), about={{}}).locked():
        print('in', flush=True)
        input()
except RunBusy as busy:
    print(busy, flush=True)
"""


@pytest.mark.fault("F23")
def test_of_eight_starts_of_one_run_one_works_and_the_others_learn_who(
    tmp_path: Path, record_property: Record
) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN, str(tmp_path / "x")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    said = {process.pid: process.stdout.readline().strip() for process in processes if process.stdout}
    for process in processes:
        process.communicate("\n")
    refusal = rf"process ({'|'.join(map(str, said))}) on {socket.gethostname()} is at work in it"
    refused = sum(bool(re.search(refusal, line)) for line in said.values())
    assert list(said.values()).count("in") == 1
    record_property("outcome", f"of 8 starts of one run at once 1 works; {refused} are told its process and host")
    assert refused == 7


@pytest.mark.parametrize("name", ["", "..", "a/b", "/a", ".hidden"])
def test_a_name_cannot_lead_out_of_the_parent(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="expected a plain folder name"):
        Run.create(tmp_path, name, about=ABOUT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("F23")
def test_a_live_run_is_refused_with_pid_and_host_and_free_after_any_death(run: Run) -> None:
    script = f"{CREATE}\nwith Run.open(Path(sys.argv[1])).locked(): print('in', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(run.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "in\n"
        assert run.is_live
        refusal = f"process {holder.pid} on {socket.gethostname()} is at work"
        with pytest.raises(RunBusy, match=refusal), run.locked():
            pass
        with pytest.raises(RunBusy, match=refusal):
            Run.open_or_create(run.folder, about=ABOUT, config=CONFIG)
        holder.kill()
    assert not run.is_live
    with run.locked():
        assert run.status.state == "live"


def test_looking_whether_a_run_is_live_does_not_hinder_its_start(run: Run) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            _ = run.is_live
            time.sleep(0.001)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(100):
            with run.locked():
                pass
    finally:
        stop.set()
        watcher.join()


def test_taking_the_lock_mends_what_a_killed_process_left(run: Run) -> None:
    run.log("train", step=1)
    with run.path("events.jsonl").open("a") as file:
        file.write('{"kind": "tr')
    (run.checkpoints.folder / ".tmp-step-00000001").mkdir(parents=True)
    run.path(".tmp-model.safetensors-1").touch()
    with run.locked():
        assert run.path("events.jsonl").read_bytes().endswith(b"}\n")
        assert list(run.checkpoints.folder.iterdir()) == []
        assert not run.path(".tmp-model.safetensors-1").exists()


def test_the_same_command_finds_its_run_again(tmp_path: Path) -> None:
    first = Run.open_or_create(tmp_path / "runs" / "x", about=ABOUT, config=CONFIG)
    created = first.about["created"]
    again = Run.open_or_create(tmp_path / "runs" / "x", about=ABOUT, config=CONFIG)
    assert again.about["created"] == created
    assert again.name == "x"


@pytest.mark.fault("F8")
def test_another_configuration_is_refused_field_by_field(run: Run, record_property: Record) -> None:
    other = {"training": {"rate": 0.2, "mels": (20, 40)}, "labels": ["yes"]}
    with pytest.raises(RunError) as error:
        Run.open_or_create(run.folder, about={**ABOUT, "seed": 1}, config=other)
    assert "seed: 0 there, 1 here" in str(error.value)
    assert "training.rate: 0.1 there, 0.2 here" in str(error.value)
    assert "labels: nothing there, ['yes'] here" in str(error.value)
    assert "mels" not in str(error.value)
    told = str(error.value).partition("another configuration: ")[2].rpartition("; ")[0]
    record_property("outcome", f"refused, exit code {error.value.exit_code}, with the fields: {told}")


@pytest.mark.fault("F8")
def test_other_code_is_a_warning_in_the_log_and_on_stderr(
    run: Run, capsys: pytest.CaptureFixture[str], record_property: Record
) -> None:
    run.write_json("environment.json", environment())
    Run.open_or_create(run.folder, about=ABOUT, config=CONFIG)
    assert run.events() == []
    run.write_json("environment.json", {**environment(), "commit": "0123abc"})
    Run.open_or_create(run.folder, about=ABOUT, config=CONFIG)
    (event,) = run.events()
    assert event["kind"] == "warning"
    assert "begun by other code: commit: 0123abc there" in event["message"]
    assert capsys.readouterr().err == f"{run.folder}: warning: {event['message']}\n"
    record_property("outcome", f"other code goes on with a {event['kind']}, logged and told")


def test_a_start_killed_before_the_run_was_described_is_begun_anew(run: Run) -> None:
    run.path("run.json").unlink()
    assert Run.open_or_create(run.folder, about=ABOUT, config=CONFIG).name == "base"


def test_a_folder_with_other_things_in_it_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"has no run.json but holds thesis.tex; choose an empty folder"):
        Run.open_or_create(tmp_path, about=ABOUT)
    with pytest.raises(RunError, match="it is not a run; list runs with: hark runs"):
        Run.open(tmp_path)


def test_a_resume_goes_on_from_the_newest_checkpoint_and_says_so(run: Run) -> None:
    assert run.resume() is None
    assert run.events() == []
    run.checkpoints.save(2, {"weights": b"w"}, info={})
    for step in (1, 2, 3):
        run.log("train", step=step)
    checkpoint = run.resume()
    assert checkpoint is not None
    assert checkpoint.files == {"weights": b"w"}
    assert [(event["kind"], event["step"]) for event in run.events()] == [
        ("train", 1),
        ("train", 2),
        ("resumed", 2),
    ]


def test_a_run_killed_before_its_first_checkpoint_starts_again_and_says_so(run: Run) -> None:
    run.log("train", step=5)
    assert run.resume() is None
    assert [(event["kind"], event["step"]) for event in run.events()] == [("resumed", 0)]


@pytest.mark.fault("F6")
def test_falling_back_to_an_older_checkpoint_is_an_event_and_is_told(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        run.checkpoints.save(step, {"weights": b"w"}, info={})
    (run.checkpoints.folder / "step-00000002" / "weights").write_bytes(b"x")
    checkpoint = run.resume()
    assert checkpoint is not None
    assert checkpoint.step == 1
    event, resumed = run.events()
    assert (event["kind"], event["checkpoint"]) == ("fallback", "step-00000002.1.corrupt")
    assert "SHA-256" in event["reason"]
    assert (resumed["kind"], resumed["step"]) == ("resumed", 1)
    banner, goes_on = capsys.readouterr().err.splitlines()
    assert banner == (
        f"{run.folder}: WARNING: a checkpoint is damaged ({event['reason']}); it is kept as "
        "step-00000002.1.corrupt, and an older one is taken"
    )
    assert goes_on == f"{run.folder}: goes on from step 1"


def test_checkpoints_that_were_saved_and_are_gone_are_an_error_and_no_new_start(run: Run) -> None:
    run.checkpoints.save(1, {"weights": b"w"}, info={})
    run.log("saved", step=1)
    shutil.rmtree(run.checkpoints.folder)
    with pytest.raises(NoValidCheckpoint, match="its checkpoints are gone"):
        run.resume()


def test_a_run_is_finished_once_it_says_so(run: Run) -> None:
    run.log("train", step=40)
    assert not run.is_finished
    run.log("finished", step=50)
    assert run.is_finished
    assert (str(run.status), run.status.step) == ("finished", 50)


def test_a_run_that_cannot_tell_that_it_is_finished_is_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskFull):
            run.finish()
    assert not run.is_finished
    run.finish()
    assert run.is_finished


def test_json_files_read_back_and_a_bad_one_is_named(run: Run) -> None:
    run.write_json("cost.json", {"parameters": 3117})
    assert run.read_json("cost.json") == {"parameters": 3117}
    with pytest.raises(RunError, match=r"scores.json: not there"):
        run.read_json("scores.json")
    run.path("cost.json").write_text("{")
    with pytest.raises(RunError, match=r"cost.json: expected JSON"):
        run.read_json("cost.json")


def test_the_address_given_by_a_tracker_is_part_of_the_run(run: Run) -> None:
    run.write_json("tracker.json", {"url": "https://example.org/run"})
    assert run.about["tracker_url"] == "https://example.org/run"


def test_runs_are_found_once_by_name_and_not_inside_each_other(tmp_path: Path) -> None:
    for place, name in (("b", "two"), ("a/deep", "three"), ("a", "one"), (".trash", "hidden")):
        Run.create(tmp_path / place, name, about=ABOUT)
    Run.create(tmp_path / "a" / "one", "inner", about=ABOUT)
    found = find_runs([tmp_path, tmp_path / "b", tmp_path / "b" / "two"])
    assert [run.name for run in found] == ["one", "three", "two"]
    with pytest.raises(RunError, match="expected a folder with runs"):
        find_runs([tmp_path / "missing"])


def test_work_that_ends_by_an_error_says_so_in_the_log(run: Run) -> None:
    with pytest.raises(ValueError, match="wide"), run.at_work():
        run.log("train", step=7)
        raise ValueError("too wide")
    assert str(run.status) == "failed at step 7: ValueError: too wide"
    with run.at_work():
        run.log("finished", step=None)
    assert str(run.status) == "finished"
    assert [event["kind"] for event in run.events()] == ["train", "ended", "finished"]


def test_what_ends_the_work_is_raised_even_if_it_cannot_be_told(run: Run) -> None:
    with pytest.raises(ValueError, match="wide"), run.at_work():
        run.event_log.path.mkdir()
        raise ValueError("too wide")


def test_a_folder_that_only_has_the_output_of_a_detached_command_is_taken(tmp_path: Path) -> None:
    (tmp_path / "output.log").write_text("decoding\n")
    assert Run.open_or_create(tmp_path, about=ABOUT).name == tmp_path.name


def listed(folder: Path) -> list[str]:
    """The lines of `hark runs`, without where the runs lie and how old they are."""
    shown = CliRunner().invoke(runs_command, [str(folder)])
    assert shown.exit_code == 0, shown.exception
    lines = [line.removeprefix(f"{folder}/") for line in shown.stdout.splitlines()]
    return [re.sub(r" +(\d+ s|-)  ", "  ", line, count=1) for line in lines]


def test_the_command_lists_runs_with_how_they_stand(tmp_path: Path) -> None:
    Run.create(tmp_path, "done", about=ABOUT).log("finished", step=9)
    stopped = Run.create(tmp_path, "stopped", about={"kind": "distill"})
    stopped.log("began", step=0, work={"steps": 20, "clips_per_step": 16})
    stopped.log("train", step=7, loss=0.1)
    failed = Run.create(tmp_path, "failed", about=ABOUT)
    failed.log("warning", step=None, message="x")
    failed.log("ended", step=None, how="failed", why="long " * 50)
    live = Run.create(tmp_path, "live", about=ABOUT)
    with live.locked():
        lines = listed(tmp_path)
        (told,) = [told for told in as_json(tmp_path) if told["state"] == "live"]
    assert lines == [
        "done     train  finished",
        f"failed   train  failed: {'long ' * 18}l…  1 warning",
        f"live     train  live (process {os.getpid()} on {socket.gethostname()})",
        "stopped  distill  stopped at step 7 of 20",
    ]
    assert (told["pid"], told["host"]) == (os.getpid(), socket.gethostname())


def as_json(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(CliRunner().invoke(runs_command, [str(folder), "--json"]).stdout)
    return found


def test_the_list_tells_a_machine_as_much(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "stage-2", about={"kind": "distill"})
    run.log("train", step=7)
    run.log("ended", step=None, how="interrupted", why="SIGTERM")
    (told,) = as_json(tmp_path)
    assert told.pop("age_s") >= 0
    assert told == {
        "path": str(tmp_path / "stage-2"),
        "name": "stage-2",
        "kind": "distill",
        "state": "interrupted",
        "why": "SIGTERM",
        "step": 7,
        "total_steps": None,
        "pid": None,
        "host": None,
        "warnings": 0,
        "fallbacks": 0,
    }


@pytest.mark.parametrize("content", [b"{", b"[]", b"7", b"\xff"])
def test_a_damaged_run_is_named_and_hides_no_other(tmp_path: Path, content: bytes) -> None:
    Run.create(tmp_path, "a", about=ABOUT).path("run.json").write_bytes(content)
    Run.create(tmp_path, "b", about=ABOUT)
    damaged, whole = listed(tmp_path)
    assert f"damaged: {tmp_path}"[:40] in damaged
    assert whole == "b  train  stopped at step 0"
    assert [told["state"] for told in as_json(tmp_path)] == ["damaged", "stopped"]


def test_a_folder_without_runs_is_said_to_have_none(tmp_path: Path) -> None:
    result = CliRunner().invoke(runs_command, [str(tmp_path)])
    assert (result.stdout, result.stderr) == ("", f"no runs in {tmp_path}\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_parent_is_an_error_with_path_and_cause(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(RunError, match="Permission denied; give yourself the right"):
        Run.create(tmp_path, "x", about=ABOUT)
