"""Data workers that hang, stop or die, clips that never come, no shared memory: the training ends the same."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from torch import Tensor

from data_workers import data_workers
from faulty_sound import HELD, LockedSound, faulty, with_sound
from hark.learning.batching import Batch, Batches, Variation
from hark.learning.dataset import Source, Task
from hark.learning.devices import Machine
from hark.learning.loading import STACKS
from hark.learning.training import Objective, TrainingConfig, cross_entropy, train
from hark.network.crnn import Trace
from hark.network.features import LogMelConfig
from hark.network.spotter import Spotter
from hark.record.runs import Run
from hark.storage.model_files import to_bytes

NewRun = Callable[[str], Run]
NewSpotter = Callable[[], Spotter]
Record = Callable[[str, object], None]

WATCHDOG_S = 1.0
SEED = 20260102
KILLS = 10
pytestmark = pytest.mark.usefixtures("fair_watchdog")


def config(epochs: int) -> TrainingConfig:
    """Three steps an epoch."""
    return TrainingConfig(epochs=epochs, batch_size=16, learning_rate=0.02, averaging=0.9, validations=1)


def on(workers: int, watchdog_s: float = WATCHDOG_S) -> Machine:
    return Machine(device="cpu", workers=workers, watchdog_s=watchdog_s)


def trained(
    model: Spotter,
    task: Task,
    run: Run,
    machine: Machine,
    *,
    epochs: int = 4,
    objective: Objective = cross_entropy,
) -> str:
    """The SHA-256 of a model trained on the task."""
    end = train(model, task, config(epochs), run=run, objective=objective, machine=machine)
    return hashlib.sha256(to_bytes(end)).hexdigest()


def before_step(act: Callable[[int], None]) -> Objective:
    """The cross-entropy, and something that befalls the training before each step."""
    steps = iter(range(10**6))

    def objective(trace: Trace, batch: Batch) -> Tensor:
        act(next(steps))
        return cross_entropy(trace, batch)

    return objective


def warnings(run: Run) -> list[str]:
    return [event["message"] for event in run.events() if event["kind"] == "warning"]


@contextmanager
def tracker_at_work() -> Iterator[None]:
    """A thread that holds a lock all the while, as a tracker's does that sends something."""
    done = threading.Event()
    holds = threading.Event()

    def hold() -> None:
        with HELD:
            holds.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.fault("F15")
def test_a_lock_held_by_a_thread_while_workers_start_blocks_none_of_them(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, record_property: Record
) -> None:
    """The workers read each clip under the very lock."""
    expected = trained(tiny_spotter(), tiny_task, new_run("undisturbed"), on(0))
    run, task = new_run("locked"), with_sound(tiny_task, LockedSound(tiny_task.training.pcm))
    with tracker_at_work():
        found = trained(tiny_spotter(), task, run, on(2, watchdog_s=20.0))
    record_property(
        "outcome", f"2 workers start and work, {len(warnings(run))} hang; the model has the same SHA-256"
    )
    assert found == expected
    assert warnings(run) == []


@pytest.mark.fault("F16")
def test_a_stopped_worker_is_found_and_replaced_and_changes_nothing(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, record_property: Record
) -> None:
    expected = trained(tiny_spotter(), tiny_task, new_run("undisturbed"), on(0))
    run = new_run("stopped")

    def stop_one(step: int) -> None:
        if step == 3:
            os.kill(data_workers()[0], signal.SIGSTOP)
            run.log("note", step=None, message="stopped")

    found = trained(tiny_spotter(), tiny_task, run, on(2), objective=before_step(stop_one))
    times = {event["kind"]: event["time_s"] for event in run.events() if event["kind"] in ("note", "warning")}
    detected_s = times["warning"] - times["note"]
    record_property(
        "outcome",
        f"SIGSTOP of a worker: found after {detected_s:.1f} s by a watchdog of {WATCHDOG_S:.0f} s, all stacks in "
        f"{STACKS}, workers replaced, same SHA-256 as without workers",
    )
    assert found == expected
    assert detected_s >= WATCHDOG_S
    assert len(warnings(run)) == 1
    assert "train" in run.path(STACKS).read_text()


@pytest.mark.fault("F16")
def test_a_clip_that_sleeps_for_ever_is_named_and_left_out(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, record_property: Record
) -> None:
    """The same model comes of a training that has known it from the start and has no workers."""
    row, run, knowing = 7, new_run("sleeping"), new_run("knowing")
    found = trained(tiny_spotter(), faulty(tiny_task, hangs=(row,)), run, on(1, 0.5))
    (event,) = [event for event in run.events() if event["kind"] == "quarantined"]
    knowing.log("quarantined", step=None, row=row, from_batch=0)
    expected = trained(tiny_spotter(), tiny_task, knowing, on(0))
    record_property(
        "outcome",
        f"clip {event['row']}, which sleeps for ever, is in quarantine after {len(warnings(run))} tries of its "
        "batch; same SHA-256 as of a training that knew it",
    )
    assert found == expected
    assert event["clip"] == str(tiny_task.training.clips[row].path)
    assert event["clip"] in warnings(run)[-1]


@pytest.mark.fault("F17")
def test_workers_killed_at_random_change_nothing(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, record_property: Record
) -> None:
    epochs = 20
    chance = random.Random(SEED)
    moments = chance.sample(range(2 * epochs), KILLS)
    killed = []

    def kill_one(step: int) -> None:
        """Kill one if it is time to, and some are left: their death is noticed when a batch is missed."""
        if len(killed) < sum(moment <= step for moment in moments) and (alive := data_workers()):
            victim = chance.choice(alive)
            with suppress(ProcessLookupError):  # it may be one that is just leaving
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    expected = trained(tiny_spotter(), tiny_task, new_run("undisturbed"), on(0), epochs=epochs)
    run = new_run("killed")
    machine = on(2, watchdog_s=60.0)
    found = trained(tiny_spotter(), tiny_task, run, machine, epochs=epochs, objective=before_step(kill_one))
    record_property("outcome", f"{len(killed)} SIGKILLs of workers at random: same SHA-256 as without workers")
    assert found == expected
    assert len(killed) == KILLS
    assert all("a data worker died at batch" in warning for warning in warnings(run))


LOAD = """
import hashlib, os, sys
from pathlib import Path
from hark.learning.batching import Batches, Variation
from hark.learning.dataset import Source, load_task
from hark.learning.devices import Machine
from hark.network.features import LogMelConfig
from hark.learning.loading import Loader
from hark.record.runs import Run

if __name__ == "__main__":
    root, cache, speech, folder = map(Path, sys.argv[1:])
    task = load_task(Source(root=root, keyword="beep", cache=cache, folds=2, speech=speech), fold=0)
    run = Run.create(folder, "run", about={})
    data = Batches(task, Variation(), LogMelConfig(), 16, 3)
    sha, shared = hashlib.sha256(), set()
    with Loader(data, Machine(workers=2), run=run, warn=lambda text: print(text, file=sys.stderr)) as loader:
        for batch in loader.stream(0, 9):
            sha.update(batch.waveforms.numpy().tobytes())
            shared |= set(os.listdir("/dev/shm"))
    print(sha.hexdigest(), *shared)
"""
IN_LITTLE_SHARED_MEMORY = 'mount -t tmpfs -o size="$1" tmpfs /dev/shm && {fill}; shift; exec "$@"'


@pytest.mark.fault("F18")
@pytest.mark.chaos
@pytest.mark.parametrize(
    ("size", "fill"),
    [("1m", "true"), ("64k", "head -c 64k /dev/zero > /dev/shm/full")],
    ids=["1 MB", "64 KB, full"],
)
def test_workers_need_no_shared_memory(
    tiny_source: Source, tiny_task: Task, tmp_path: Path, record_property: Record, size: str, fill: str
) -> None:
    if os.geteuid() or not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("a private /dev/shm needs root and the right to make mount namespaces")
    script = tmp_path / "load.py"
    script.write_text(LOAD)
    shell = ["unshare", "-m", "sh", "-c", IN_LITTLE_SHARED_MEMORY.format(fill=fill), "sh", size]
    source = (tiny_source.root, tiny_source.cache, tiny_source.speech)
    command = [*shell, sys.executable, script, *map(str, source), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    data = Batches(tiny_task, Variation(), LogMelConfig(), 16, 3)
    sha = hashlib.sha256()
    for number in range(9):
        sha.update(data.make(number).waveforms.numpy().tobytes())
    found, *shared = done.stdout.split()
    batches = [name for name in shared if name != "full"]
    record_property(
        "outcome",
        f"/dev/shm of {size}{', full' * (shared != batches)}: 2 workers make the same batches, {len(batches)} of "
        f"which lie there, with {len(done.stderr.splitlines())} warnings",
    )
    assert found == sha.hexdigest()
    assert done.stderr == ""
    assert batches == []
