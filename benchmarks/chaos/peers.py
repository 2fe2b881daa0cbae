"""What plain PyTorch Lightning and plain wandb do under the faults that hark is tested with.

Each scenario runs the victim scripts beside this file, does to them what the fault says, and tells in one
sentence, made of what was measured, what became of them.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
LIGHTNING, WANDB = HERE / "lightning_victim.py", HERE / "wandb_victim.py"
KILLS = 12
PATIENCE_S = 30.0
"""A training that makes no step for so long is said to hang; its steps take milliseconds."""

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_ERROR = re.compile(r"[\w.]+(Error|Exception)\b")


@dataclass(frozen=True)
class Outcome:
    """What became of a tool under a fault."""

    fault: str
    tool: str
    outcome: str


class Victim:
    """A victim script at work, its lines read as they come."""

    def __init__(self, script: Path, folder: Path, *arguments: str, **environment: str) -> None:
        self.lines: list[str] = []
        self._heard_at = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(_COLOUR.sub("", line).strip())
            self._heard_at = time.monotonic()

    def reach(self, word: str, *, within_s: float = 120.0) -> bool:
        """Wait for a line that begins with `word`; False where it does not come."""
        end = time.monotonic() + within_s
        while time.monotonic() < end and self.process.poll() is None:
            if any(line.startswith(word) for line in self.lines):
                return True
            time.sleep(0.01)
        return any(line.startswith(word) for line in self.lines)

    def end(self, *, within_s: float) -> int | None:
        """The exit code; None, and a kill, where it says nothing for `within_s` and does not end."""
        self._heard_at = time.monotonic()
        while self.process.poll() is None:
            if time.monotonic() - self._heard_at > within_s:
                self.kill()
                return None
            time.sleep(0.05)
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL to it and all its children."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def children(self) -> list[int]:
        """The processes it has started and that run its own script: data workers."""
        return _pids("-P", str(self.process.pid), "-f", LIGHTNING.name)

    def wandb_helpers(self) -> list[int]:
        """The wandb-core that serves it, which has a session of its own."""
        return _pids("-f", f"wandb-core .*--pid {self.process.pid}$")

    @property
    def steps(self) -> int:
        """Steps it has told of."""
        return sum(line.startswith("step") for line in self.lines)

    @property
    def last_words(self) -> str:
        """The last error it has named, or else its last line that is no step; cut short."""
        spoken = [line for line in self.lines if line and not line.startswith(("step", "init"))]
        errors = [line for line in spoken if _ERROR.match(line)]
        return next(iter([*errors[-1:], *spoken[-1:]]), "without a word")[:90]


def _pids(*pattern: str) -> list[int]:
    return [int(pid) for pid in subprocess.run(["pgrep", *pattern], capture_output=True, text=True).stdout.split()]


def strike(pids: Sequence[int], number: signal.Signals) -> None:
    """Send a signal to processes, of which there must be some: or else the fault was never made."""
    if not pids:
        raise RuntimeError(f"no process to send {number.name} to")
    for pid in pids:
        os.kill(pid, number)


def lightning_killed(folder: Path) -> Outcome:
    """F1: killed at a random moment, then the same command again."""
    whole = folder / "whole"
    started = time.monotonic()
    Victim(LIGHTNING, whole).end(within_s=PATIENCE_S)
    took_s = time.monotonic() - started
    expected = (whole / "digest").read_text()
    rng = random.Random(1)
    finished = equal = 0
    for attempt in range(KILLS):
        place = folder / f"killed-{attempt}"
        victim = Victim(LIGHTNING, place)
        victim.reach("step")
        time.sleep(rng.uniform(0, took_s / 2))
        if victim.process.poll() is None:
            victim.kill()
        Victim(LIGHTNING, place).end(within_s=PATIENCE_S)
        if (place / "digest").exists():
            finished += 1
            equal += (place / "digest").read_text() == expected
    told = f"{finished} of {KILLS} resumed trainings finish, {equal} with the weights of one never stopped"
    return Outcome("F1", "Lightning", told)


def lightning_on_a_full_disk(folder: Path) -> Outcome:
    """F4: the disk fills up after the first checkpoints."""
    with small_disk(folder, megabytes=24) as disk:
        victim = Victim(LIGHTNING, disk, "--megabytes", "4")
        victim.reach("step 21")
        fill(disk)
        code = victim.end(within_s=PATIENCE_S)
        good = [path for path in disk.glob("*.ckpt") if loads(path)]
        bad = [path for path in disk.glob("*.ckpt") if path not in good]
    ending = "hangs" if code is None else f"exits with {code} after {victim.steps} steps ({victim.last_words})"
    return Outcome("F4", "Lightning", f"{ending}; {len(good)} checkpoints still load, {len(bad)} do not")


def lightning_with_a_raising_tracker(folder: Path) -> Outcome:
    """F12: the logger raises at its third call."""
    victim = Victim(LIGHTNING, folder, "--logger", "raising")
    code = victim.end(within_s=PATIENCE_S)
    return Outcome(
        "F12", "Lightning", f"exits with {code} after {victim.steps} of 400 steps ({victim.last_words})"
    )


def wandb_with_a_killed_helper(folder: Path) -> Outcome:
    """F12: wandb-core, the helper process of wandb, is killed."""
    victim = Victim(WANDB, folder, WANDB_MODE="offline")
    victim.reach("step 10")
    strike(victim.wandb_helpers(), signal.SIGKILL)
    code = victim.end(within_s=100)
    ending = "hangs" if code is None else f"exits with {code}"
    return Outcome(
        "F12", "wandb", f"helper killed: {ending} after {victim.steps} of 40 steps ({victim.last_words})"
    )


def wandb_without_an_answer(folder: Path) -> Outcome:
    """F13: a server that accepts and never answers."""
    with silent_server() as url:
        started = time.monotonic()
        victim = Victim(WANDB, folder, WANDB_MODE="online", WANDB_BASE_URL=url, WANDB_API_KEY="0" * 40)
        code = victim.end(within_s=300)
        took_s = time.monotonic() - started
    ending = "hangs" if code is None else f"exits with {code}"
    told = f"{ending} after {took_s:.0f} s and {victim.steps} of 40 steps ({victim.last_words})"
    return Outcome("F13", "wandb", told)


def wandb_on_a_full_disk(folder: Path) -> Outcome:
    """F14: a disk of 1 MB for the tracker's files, full after some steps."""
    with small_disk(folder, megabytes=1) as disk:
        victim = Victim(WANDB, disk, WANDB_MODE="offline")
        victim.reach("step 5")
        fill(disk)
        code = victim.end(within_s=100)
        kept = sum(path.stat().st_size for path in disk.rglob("*.wandb"))
    said = [line for line in victim.lines if "space" in line.lower() or "error" in line.lower()]
    warned = f"and says {said[0][:60]!r}" if said else "without a word about it"
    return Outcome("F14", "wandb", f"exits with {code} {warned}; {kept} bytes of the log are kept")


def lightning_with_a_stopped_worker(folder: Path) -> Outcome:
    """F16: a data worker gets SIGSTOP."""
    victim = Victim(LIGHTNING, folder, "--workers", "1")
    victim.reach("step 20")
    strike(victim.children(), signal.SIGSTOP)
    code = victim.end(within_s=PATIENCE_S)
    ending = f"hangs: no step within {PATIENCE_S:.0f} s, no message" if code is None else f"exits with {code}"
    return Outcome("F16", "Lightning", f"{ending} (stopped after {victim.steps} of 400 steps)")


SCENARIOS: tuple[Callable[[Path], Outcome], ...] = (
    lightning_killed,
    lightning_on_a_full_disk,
    lightning_with_a_raising_tracker,
    wandb_with_a_killed_helper,
    wandb_without_an_answer,
    wandb_on_a_full_disk,
    lightning_with_a_stopped_worker,
)


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[Path]:
    """A file system of its own with little room; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


@contextmanager
def silent_server() -> Iterator[str]:
    """The address of a server that accepts every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        accepted: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def loads(checkpoint: Path) -> bool:
    """Whether torch reads a checkpoint."""
    read = "import sys, torch; torch.load(sys.argv[1], weights_only=False)"
    return not subprocess.run([sys.executable, "-c", read, str(checkpoint)], capture_output=True).returncode


def measure(scenario: Callable[[Path], Outcome]) -> Outcome:
    """One scenario in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return scenario(Path(folder))


def versions() -> dict[str, str]:
    """The versions that were measured."""
    return {"Lightning": version("pytorch-lightning"), "wandb": version("wandb")}


if __name__ == "__main__":
    for each in SCENARIOS:
        if len(sys.argv) < 2 or each.__name__ in sys.argv[1:]:
            print(json.dumps(asdict(measure(each))), flush=True)
