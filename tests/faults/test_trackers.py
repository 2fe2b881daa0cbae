"""Trackers that raise, hang, die or lose what they were given: the training does not feel it, the loss is told."""

from __future__ import annotations

import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest
from hark_processes import Parent
from stopwatch import Stopwatch, Took
from test_disk_faults import AFTER_EACH_STEP, can_mount
from torch import Tensor
from wandb_server import Manner, dropping, silent, wandb_server

from hark.learning.batching import Batch
from hark.learning.dataset import Source, Task
from hark.learning.training import TrainingConfig, cross_entropy, train
from hark.network.crnn import Trace
from hark.network.spotter import Spotter
from hark.record import mirror, progress
from hark.record.events import Event
from hark.record.runs import Run
from hark.record.standing import Standing, standing
from hark.storage.model_files import to_bytes

FAKE = Path(__file__).parents[1] / "fake_tracker.py"
SHORT = TrainingConfig(epochs=4, batch_size=16, learning_rate=0.02, averaging=0.9, validations=2)
STEPS, EVENTS = 12, 14
"""Steps of the short training, and what it logs with numbers: each step, and two validations."""
LONGER = replace(SHORT, epochs=800)
BLOCK = 10
"""Steps of the longer training while the tracker is stopped, and then as many with it at work: 120 times over."""
MOST_SLOWER, MOST_ADDED_S = 0.02, 1.0
LINGER_S = 5
# The real thing, but with less time after the end of the training.
IMPATIENT = f"""
import sys
from pathlib import Path
from hark.record import mirror, tracking
from hark.record.runs import Run
folder, _, name = sys.argv[1:]
mirror.serve(Run.open(Path(folder)), to=name, open_backend=tracking.BACKENDS[name], linger_s={LINGER_S})
"""

Record = Callable[[str, object], None]


@dataclass(frozen=True)
class Trained:
    """A training with a tracker, and what it cost to have one."""

    run: Run
    model: bytes
    start: Took
    end: Took

    @property
    def told(self) -> list[Event]:
        """What the run's log tells of trackers."""
        return [event for event in self.run.events() if "tracker" in event]

    @property
    def has(self) -> Standing:
        """What the tracker has by now."""
        return standing(self.run, "wandb")


class Training:
    """Trains the tiny network, each time the same, with or without trackers."""

    def __init__(self, task: Task, spotter: Callable[[], Spotter], folder: Path) -> None:
        self.task, self.spotter, self.folder = task, spotter, folder

    def __call__(
        self,
        *trackers: str,
        config: TrainingConfig = SHORT,
        command: tuple[str, ...] = (),
        before_step: Callable[[Run, int], object] = lambda run, step: None,
    ) -> Trained:
        run = Run.create(self.folder, "run", about={"kind": "train", "fold": 0, "setting": "base"})
        steps = iter(range(1, 1 << 30))

        def objective(trace: Trace, batch: Batch) -> Tensor:
            before_step(run, next(steps))
            return cross_entropy(trace, batch)

        beginning = Stopwatch()
        with run.locked(), mirror.mirrors(run, trackers, command=command):
            start = beginning.read()
            model = to_bytes(train(self.spotter(), self.task, config, run=run, objective=objective))
            ending = Stopwatch()
        return Trained(run, model, start, ending.read())


@pytest.fixture
def training(
    tiny_task: Task, tiny_spotter: Callable[[], Spotter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Training:
    """Logs each step, so that a short training has something to lose."""
    monkeypatch.setattr(progress, "LOG_EVERY_STEPS", 1)
    return Training(tiny_task, tiny_spotter, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(
    tiny_task: Task, tiny_spotter: Callable[[], Spotter], tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    """The model of the short training without a tracker."""
    return Training(tiny_task, tiny_spotter, tmp_path_factory.mktemp("undisturbed"))().model


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait at the end for what becomes of the tracker, instead of leaving it behind."""
    monkeypatch.setattr(mirror, "PARTING_S", 300.0)


def at_step_5(deed: Callable[[Run], object]) -> Callable[[Run, int], object]:
    """Something that befalls a training once."""
    return lambda run, step: deed(run) if step == 5 else None


def fake(where: str, *, confirms: str = "at-once", linger_s: int = 60) -> tuple[str, ...]:
    """The command of a tracker that does something at a place."""
    return (sys.executable, str(FAKE), where, confirms, str(linger_s))


def eventually(condition: Callable[[], object], *, limit_s: float) -> bool:
    """Whether something comes true in time."""
    end_s = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.05)
    return bool(condition())


def feeder(run: Run) -> int:
    """The process that feeds the tracker, once there is one."""
    assert eventually(lambda: standing(run, "wandb").holder, limit_s=300)
    holder = standing(run, "wandb").holder
    assert holder and holder.pid
    return holder.pid


def feeding(run: Run) -> int:
    """The process that feeds the tracker, once it has taken over some events."""
    assert eventually(lambda: standing(run, "wandb").confirmed >= 4, limit_s=300)
    return feeder(run)


@pytest.mark.fault("F12")
@pytest.mark.usefixtures("patience")
def test_a_tracker_that_raises_costs_one_warning_and_no_bit_of_the_model(
    training: Training, undisturbed: bytes, record_property: Record
) -> None:
    ways = {
        "raise at init": "at-once",
        "raise at log 3": "at-the-end",
        "raise at finish": "at-the-end",
        "raise BaseException at log 3": "at-the-end",
    }
    trained = [training("wandb", command=fake(way, confirms=confirms)) for way, confirms in ways.items()]
    warnings = [event for one in trained for event in one.told if event["kind"] == "warning"]
    assert [one.model for one in trained] == len(ways) * [undisturbed]
    assert [len(one.told) for one in trained] == len(ways) * [1]
    assert [event["message"] for event in warnings] == [str(one.has) for one in trained]
    assert [(one.has.lost, one.has.events) for one in trained] == len(ways) * [(EVENTS, EVENTS)]
    assert all("; replay with: hark track push " in event["message"] for event in warnings)
    same = sum(one.model == undisturbed for one in trained)
    record_property(
        "outcome",
        f"raises at init, at the 3rd log, at finish, with BaseException: {same} of {len(ways)} models are "
        f"byte-identical to the one without tracker; {len(warnings)} warnings in {len(ways)} runs, each with its "
        f"count ({trained[0].has.lost} of {trained[0].has.events} events) and the command that replays them",
    )


@pytest.mark.fault("F13")
def test_a_tracker_that_hangs_is_left_behind(
    training: Training, undisturbed: bytes, record_property: Record
) -> None:
    trained = training("wandb", command=fake("hang at init", linger_s=2))
    (told,) = trained.told
    assert trained.model == undisturbed
    assert (told["kind"], "goes on as process" in told["message"]) == ("note", True), "nobody waited for its end"
    left_at = time.monotonic()
    assert eventually(lambda: trained.has.holder is None, limit_s=60)
    assert "TimeoutError: it had not ended 2 s after the training" in str(trained.has)
    assert trained.has.lost == EVENTS
    record_property(
        "outcome",
        f"hangs: the same model, {trained.start.seconds:.2f} s at the start, {trained.end.seconds:.2f} s at the "
        f"end; its process ended by itself {time.monotonic() - left_at:.0f} s later, the limit being 2 s; all "
        f"{trained.has.lost} events told as lost",
    )


@pytest.mark.fault("F13")
@pytest.mark.usefixtures("patience")
def test_the_process_that_feeds_a_tracker_may_be_killed(
    training: Training, undisturbed: bytes, record_property: Record
) -> None:
    trained = training(
        "wandb", command=fake("nowhere"), before_step=at_step_5(lambda run: os.kill(feeding(run), signal.SIGKILL))
    )
    (told,) = trained.told
    assert trained.model == undisturbed
    assert (told["kind"], told["message"]) == ("warning", str(trained.has))
    assert trained.has.reason == "killed by SIGKILL"
    assert 0 < trained.has.lost < EVENTS
    record_property(
        "outcome",
        f"our feeding process killed at step 5: the same model; one warning, up to {trained.has.lost} of "
        f"{trained.has.events} events lost",
    )


@pytest.mark.fault("F13")
@pytest.mark.usefixtures("patience")
def test_the_process_that_feeds_a_tracker_may_be_stopped(
    training: Training, undisturbed: bytes, record_property: Record
) -> None:
    """Nothing could be confirmed while it was stopped, so the training cannot have waited for it."""
    trained = training(
        "wandb", command=fake("nowhere"), before_step=at_step_5(lambda run: os.kill(feeding(run), signal.SIGSTOP))
    )
    assert trained.model == undisturbed
    assert trained.told == []
    assert trained.has.lost == 0
    record_property(
        "outcome",
        f"our feeding process stopped at step 5: the same model; set going at the end, it hands over all "
        f"{trained.has.confirmed} of {trained.has.events} events",
    )


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the real package speak to a server."""
    pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)

    def online(url: str) -> None:
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)

    return online


def helpers_of(pid: int) -> list[int]:
    """The `wandb-core` that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = status.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has just ended
            continue
        if name == "wandb-core" and int(rest.split()[1]) == pid:
            found.append(int(status.parent.name))
    return found


class ByTurns:
    """Lets the tracker work for some steps of a training and stops it for as many, and notes what each block took.

    Neighbouring blocks share whatever else befalls the machine, so that little is left to tell them apart but the
    tracker. What it could not do while it was stopped it does after, at the expense of the steps with it.
    """

    def __init__(self) -> None:
        self.processor_s: list[float] = []
        self.seconds: list[float] = []
        self._feeder = 0
        self._began = (0.0, 0.0)

    def __call__(self, run: Run, step: int) -> None:
        """Where a block begins, note what the one before took, and stop the tracker or let it go on."""
        if step % BLOCK != 1:
            return
        now = time.process_time(), time.monotonic()
        if step == 1:
            self._feeder = feeder(run)
        else:
            self.processor_s.append(now[0] - self._began[0])
            self.seconds.append(now[1] - self._began[1])
        for process in (self._feeder, *helpers_of(self._feeder)):
            os.kill(process, signal.SIGSTOP if len(self.seconds) % 2 == 0 else signal.SIGCONT)
        self._began = time.process_time(), time.monotonic()


class Slower(NamedTuple):
    """By which share blocks with the tracker at work take longer than those before them, and its 95 % margin."""

    share: float
    margin: float

    def __str__(self) -> str:
        return f"{100 * self.share:+.1f} ± {100 * self.margin:.1f} %"

    @classmethod
    def of(cls, blocks: list[float]) -> Slower:
        """From what blocks took, the first without it; torch warms up in that one, so its pair is left out."""
        pairs = zip(blocks[2::2], blocks[3::2], strict=False)
        ratios = [math.log(with_it / without) for without, with_it in pairs]
        return cls(math.expm1(statistics.mean(ratios)), 2 * statistics.stdev(ratios) / len(ratios) ** 0.5)


@pytest.mark.chaos
@pytest.mark.fault("F13")
@pytest.mark.skipif(sys.platform != "linux", reason="finds wandb-core in /proc")
def test_wandb_with_a_server_that_never_answers_costs_no_time(
    training: Training, wandb: Callable[[str], None], record_property: Record
) -> None:
    """Neither at the start nor in any step; and at the end nothing but the end of its own patience."""
    plain, by_turns = training(config=LONGER), ByTurns()
    with silent() as server:
        wandb(server.url)
        mirrored = training("wandb", config=LONGER, before_step=by_turns)
        (told,) = mirrored.told
        assert mirrored.model == plain.model
        assert told["kind"] == "note", "nobody waited for its end"
        assert eventually(lambda: mirrored.has.holder is None, limit_s=mirror.LINGER_S + 60)
        assert server.connections
    processor, clock = Slower.of(by_turns.processor_s), Slower.of(by_turns.seconds)
    record_property(
        "outcome",
        f"wandb, a server that accepts and never answers: the same model; {mirrored.start.seconds:.2f} s at the "
        f"start, {mirrored.end.seconds:.2f} s at the end, in between {processor} of processor time ({clock} by "
        f"the clock; {len(by_turns.seconds)} blocks of {BLOCK} steps, with it at work and stopped by turns); all "
        f"{mirrored.has.lost} events told as lost",
    )
    assert mirrored.has.lost == mirrored.has.events > 0
    for found in (processor, clock):  # a busy machine widens the margin and proves nothing
        assert found.share - found.margin < MOST_SLOWER
    assert mirrored.start.undisturbed_s < MOST_ADDED_S
    assert mirrored.end.undisturbed_s < MOST_ADDED_S


@pytest.mark.chaos
@pytest.mark.fault("F13")
def test_wandb_whose_packets_are_dropped_is_left_behind_and_ends(
    training: Training, undisturbed: bytes, wandb: Callable[[str], None], record_property: Record
) -> None:
    with dropping() as url:
        wandb(url)
        trained = training("wandb", command=(sys.executable, "-c", IMPATIENT))
        assert trained.model == undisturbed
        assert [event["kind"] for event in trained.told] == ["note"]
        assert eventually(lambda: trained.has.holder is None, limit_s=LINGER_S + 60)
    assert trained.has.lost == EVENTS
    record_property(
        "outcome",
        f"wandb, a network that drops all: the same model, {trained.start.seconds:.2f} s at the start, "
        f"{trained.end.seconds:.2f} s at the end, all {trained.has.lost} events told as lost",
    )


@pytest.mark.chaos
@pytest.mark.fault("F13")
@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("manner", ["takes all", "refuses rows", "falls silent"])
def test_wandb_is_believed_no_more_than_its_own_file_and_log_show(
    training: Training, undisturbed: bytes, wandb: Callable[[str], None], manner: Manner, record_property: Record
) -> None:
    with wandb_server(manner) as server:
        wandb(server.url)
        command = (sys.executable, "-c", IMPATIENT) if manner == "falls silent" else ()
        trained = training("wandb", command=command)
        rows = len(server.rows)
    assert trained.model == undisturbed
    if manner == "takes all":
        assert (rows, trained.has.confirmed, trained.told) == (EVENTS, EVENTS, [])
    else:
        assert [event["kind"] for event in trained.told] == ["warning"]
        assert (rows, trained.has.lost) == (0, EVENTS)
    record_property(
        "outcome",
        f"wandb, a server that {manner}: the same model; {rows} rows have arrived, {trained.has.lost} of "
        f"{trained.has.events} events told as lost",
    )


@pytest.mark.chaos
@pytest.mark.fault("F13")
@pytest.mark.usefixtures("patience")
@pytest.mark.skipif(sys.platform != "linux", reason="finds wandb-core in /proc")
def test_wandb_core_may_be_killed(
    training: Training, undisturbed: bytes, wandb: Callable[[str], None], record_property: Record
) -> None:
    def kill_core(run: Run) -> None:
        pid = feeder(run)
        assert eventually(lambda: helpers_of(pid), limit_s=300)
        # It has a file, so rows are on their way.
        assert eventually(lambda: list(run.path("trackers/wandb").glob("offline-run-*/run-*.wandb")), limit_s=300)
        for core in helpers_of(pid):
            os.kill(core, signal.SIGKILL)

    trained = training("wandb", before_step=at_step_5(kill_core))
    assert trained.model == undisturbed
    assert [event["kind"] for event in trained.told] == ["warning"]
    assert trained.has.lost == EVENTS
    record_property(
        "outcome",
        f"wandb-core killed at step 5: the same model, one warning, up to {trained.has.lost} of "
        f"{trained.has.events} events lost",
    )


RECIPE = """
[stages.base]
kind = "train"
network = {channels = 2, kernel = [5, 20], stride = [4, 16], hidden = [6, 6], dropout = 0.2}
training = {epochs = 14, batch_size = 16, learning_rate = 0.02, validations = 1}
"""
FULL_AT = 20
# What is run in the process of the training before it begins.
ON_A_SMALL_DISK = f"""
import ctypes, subprocess, time
from contextlib import suppress
from pathlib import Path
import hark.record.mirror, hark.record.progress, hark.recipes.stages

hark.record.mirror.PARTING_S = 60.0
hark.record.progress.LOG_EVERY_STEPS = 1
mirrors = hark.recipes.stages.mirrors
small = None

def on_a_small_disk(run, trackers):
    global small
    small = run.path(place)
    small.mkdir(parents=True)
    CLONE_NEWNS = 0x20000  # what is mounted from here on is seen by this process and its children alone
    assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
    return mirrors(run, trackers)

hark.recipes.stages.mirrors = on_a_small_disk

def after(step):
    if step == {FULL_AT}:
        written = ("events.", "run-")
        while not any(path.stat().st_size for path in small.rglob("*") if path.name.startswith(written)):
            time.sleep(0.05)
        with Path(small, "filler").open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass
"""


@pytest.mark.chaos
@pytest.mark.fault("F14")
@pytest.mark.parametrize("place", ["trackers/tensorboard", "trackers/wandb", "trackers"])
def test_a_tracker_whose_disk_is_full_is_found_out(
    parent: Parent, tiny_source: Source, tmp_path: Path, record_property: Record, place: str
) -> None:
    """Its own files only, or the notes of what it has confirmed as well."""
    tracker = "tensorboard" if place == "trackers/tensorboard" else "wandb"
    pytest.importorskip(tracker)
    if not can_mount():
        pytest.skip("may not mount a small disk here: needs root and CAP_SYS_ADMIN")
    recipe = tmp_path / "one.toml"
    recipe.write_text(RECIPE)
    command = ["train", recipe, "--data", tiny_source.root, "--keyword", "beep", "--folds", 2, "--device", "cpu"]
    plain = [*command, "--out", tmp_path / "plain"]
    assert parent(plain, tmp_path / "plain.log").wait(120) == 0
    mirrored = [*command, "--out", tmp_path / "mirrored", "--track", tracker]
    output = tmp_path / "mirrored.log"
    before = f"place = {place!r}\n" + ON_A_SMALL_DISK + AFTER_EACH_STEP
    code = parent(mirrored, output, before=before).wait(240)
    assert code == 0, output.read_text()
    first, second = (Run.open(tmp_path / name / "one" / "fold-0" / "base") for name in ("plain", "mirrored"))
    assert second.path("model.safetensors").read_bytes() == first.path("model.safetensors").read_bytes()
    (warning,) = (event for event in second.events() if "tracker" in event)
    assert warning["kind"] == "warning"
    told = warning["message"].partition(" events ")[0]
    lost, total = (int(word) for word in told.split() if word.isdigit())
    assert 0 < lost <= total
    assert warning["message"] in output.read_text()
    record_property(
        "outcome",
        f"a disk of 1 MB at `{place}`, full from step {FULL_AT} on: the same model, one warning: {told} events",
    )
