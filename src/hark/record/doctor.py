"""What of this machine could spoil a night of training, and what to do about it: a line for each finding.

What is found out (`resources`, `trials`) and how it is judged are apart: a judgement is a function of facts.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from hark import resources
from hark.record import trials
from hark.record.status import printable
from hark.record.trials import Audio, Clock, Disk, Gpu
from hark.resources import Memory, Processor

LIMIT_S = 3.5
SERVER_LIMIT_S = 2.0
WANDB_ADDRESS = "https://api.wandb.ai"
# The versions of constraints.txt, for what decides about results and files; a test holds the two together.
TESTED = {
    "numpy": "2.4.6",
    "soundfile": "0.14.0",
    "soxr": "1.1.0",
    "torch": "2.13.0",
    "lightning-fabric": "2.6.6",
    "safetensors": "0.8.0",
}
INSTALL_TRAIN = 'pip install "hark-kws[train]"'

LITTLE_DISK_BYTES, TOO_LITTLE_DISK_BYTES, FEW_FILES = 1 << 30, 100 << 20, 10_000
SLOW_SAVE_S = 0.5
LITTLE_MEMORY_BYTES, TOO_LITTLE_MEMORY_BYTES = 2 << 30, 512 << 20
FEW_OPEN_FILES = 1024
EARLIEST_YEAR, LATEST_YEAR = 2025, 2100
CLOCK_TOLERANCE_S = 0.1


@dataclass(frozen=True)
class Finding:
    """One line: of what, how bad, what was found, and what to do about it (empty where there is nothing to do)."""

    topic: str
    verdict: Literal["ok", "warning", "problem"]
    said: str
    advice: str = ""


def examine(place: Path, *, limit_s: float = LIMIT_S) -> list[Finding]:
    """Look at everything at once; what has not answered within `limit_s` seconds is a finding as well.

    Args:
        place: where runs are to go; it need not be there yet.
        limit_s: seconds.
    """
    return ask(
        {
            "processor": lambda: judge_processor(resources.processor()),
            "memory": lambda: judge_memory(resources.memory()),
            "device": lambda: judge_gpu(trials.gpu(limit_s=0.8 * limit_s)),
            "disk": lambda: judge_disk(trials.disk(place)),
            "shared memory": lambda: judge_shared_memory(resources.shared_memory_bytes()),
            "open files": lambda: judge_open_files(resources.open_files_limit()),
            "clock": lambda: judge_clock(trials.clock()),
            "versions": lambda: judge_versions(
                {name: trials.installed(name) for name in TESTED}, trials.required()
            ),
            "audio": lambda: judge_audio(trials.audio()),
            "synthesis": _synthesis,
            "tensorboard": lambda: judge_tensorboard(trials.installed("tensorboard")),
            "wandb": _wandb,
        },
        limit_s=limit_s,
    )


def ask(questions: Mapping[str, Callable[[], Finding]], *, limit_s: float) -> list[Finding]:
    """Ask all at once, and give the findings in the questions' order.

    Each has a thread of its own that nobody waits for in the end: a disk of the network can hang for ever.
    """
    findings: dict[str, Finding] = {}

    def answer(topic: str, question: Callable[[], Finding]) -> None:
        try:
            findings[topic] = question()
        except Exception as error:
            said = printable(error) or type(error).__name__
            findings[topic] = Finding(topic, "problem", said, "mend that, then ask again")

    threads = [threading.Thread(target=answer, args=question, daemon=True) for question in questions.items()]
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    silent = partial(
        Finding,
        verdict="warning",
        said=f"no answer within {limit_s:g} s",
        advice="see whether it hangs or is busy",
    )
    return [findings.get(topic) or silent(topic) for topic in questions]


def judge_processor(found: Processor) -> Finding:
    """Whether there are enough cores, and no more threads than cores."""
    usable = min(found.allowed, found.quota or found.allowed)
    limits = [f"{found.allowed} allowed"] * (found.allowed < found.cores)
    limits += [f"{found.quota:g} by the container's limit"] if found.quota else []
    said = f"{found.cores} cores, {', '.join([*limits, found.name])}"
    report = partial(Finding, "processor")
    if usable < 1:
        slower = f"trainings take {1 / usable:.1f} times as long as on one core"
        return report("warning", said, f"{slower}; allow it more, such as docker run --cpus 2")
    wanted = found.threads_wanted
    if wanted is None:
        return report("ok", said)
    said += f"; OMP_NUM_THREADS is {wanted}"
    if not wanted.isdecimal() or int(wanted) < 1:
        return report("warning", said, "expected a number; unset it")
    if int(wanted) > usable:
        return report("warning", said, f"more threads than cores wait for each other; set it to {int(usable)}")
    return report("ok", said)


def judge_memory(found: Memory) -> Finding:
    """Whether a training fits: the base network on 7,000 clips takes about 1 GB."""
    if found.total is None:
        return Finding("memory", "ok", "unknown on this system")
    total = min(found.total, found.limit or found.total)
    free = min(found.available or total, total)
    limited = " by the container's limit" if found.limit and found.limit < found.total else ""
    said = f"{_bytes(total)}{limited}, {_bytes(free)} free"
    if free < TOO_LITTLE_MEMORY_BYTES:
        return Finding("memory", "problem", said, "a training takes some 1 GB; end something, or allow it more")
    if free < LITTLE_MEMORY_BYTES:
        return Finding("memory", "warning", said, "enough for small corpora; end something, or allow it more")
    return Finding("memory", "ok", said)


def judge_gpu(found: Gpu) -> Finding:
    """Whether there is a GPU that torch can use, and if not, why."""
    report = partial(Finding, "device")
    if found.torch is None:
        return report("problem", "torch is not installed, so nothing can be trained", f"run: {INSTALL_TRAIN}")
    why = printable(found.complaint) or "it gives no reason"
    if found.loads is False:
        said = f"torch {found.torch} does not load: {why}"
        return report("problem", said, "run: pip install --force-reinstall torch")
    if found.gpu:
        return report("ok", f"{found.gpu}, torch {found.torch}")
    if not found.nodes:
        return report("ok", f"no GPU, trains on the CPU; torch {found.torch}")
    if found.loads is None:
        said = f"there is a GPU, but torch {found.torch} took too long to say whether it can use it"
        return report("warning", said, "ask again when the machine is less busy")
    if found.build is None:
        said = f"there is a GPU, but torch {found.torch} was built without CUDA"
        return report("warning", said, "install the build for it: see pytorch.org")
    if found.visible is not None:
        said = f"there is a GPU, but CUDA_VISIBLE_DEVICES is {found.visible!r}"
        return report("warning", said, "unset it to train on the GPU")
    said = f"there is a GPU, but torch {found.torch} for CUDA {found.build} cannot use it: {why}"
    return report("warning", said, "bring the driver up to date: see nvidia-smi")


def judge_disk(found: Disk) -> Finding:
    """Whether runs can be kept there: space, speed, and that it is still there tomorrow."""
    free = f"{_bytes(found.free_bytes)} free"
    said = f"{found.folder} ({found.file_system}): {free}, a checkpoint takes {1000 * found.save_s:.0f} ms"
    report = partial(Finding, "disk")
    if found.free_bytes < TOO_LITTLE_DISK_BYTES:
        return report("problem", said, "free some space, or choose another --out")
    if found.file_system in ("tmpfs", "ramfs"):
        return report("warning", said, "that is memory, gone when the machine restarts; choose another --out")
    if found.free_bytes < LITTLE_DISK_BYTES:
        return report("warning", said, "free some space, or choose another --out")
    if found.free_files < FEW_FILES:
        return report("warning", f"{said}, room for {found.free_files} files", "remove files you no longer need")
    if found.save_s > SLOW_SAVE_S:
        return report("warning", said, "the disk is slow or busy; choose a local one as --out")
    return report("ok", said)


def judge_shared_memory(size_bytes: int | None) -> Finding:
    """However little there is: data workers hand over batches through pipes, and a full one changes nothing."""
    found = "none on this system" if size_bytes is None else f"{_bytes(size_bytes)} in {resources.SHARED_MEMORY}"
    return Finding("shared memory", "ok", f"{found}; hark needs none, its workers use pipes")


def judge_open_files(limit: int) -> Finding:
    """Whether enough files may be open at once."""
    if limit < FEW_OPEN_FILES:
        return Finding("open files", "warning", f"at most {limit}", f"run: ulimit -n {4 * FEW_OPEN_FILES}")
    return Finding("open files", "ok", f"at most {limit}")


def judge_clock(found: Clock) -> Finding:
    """Whether the clock can be believed; hark itself measures durations by another one, which cannot be set."""
    said = f"{found.now:%Y-%m-%d %H:%M} UTC"
    if abs(found.passed_s - found.true_s) > CLOCK_TOLERANCE_S:
        said += f", went {found.passed_s:.1f} s in {found.true_s:.1f} s"
        return Finding(
            "clock", "warning", said, "times in events will jump; look at the time service (chrony, ntpd)"
        )
    if not EARLIEST_YEAR <= found.now.year <= LATEST_YEAR:
        return Finding("clock", "warning", said, "set it: times in events will be wrong, and trackers refuse it")
    return Finding("clock", "ok", said)


def judge_versions(found: Mapping[str, str | None], needed: Mapping[str, str]) -> Finding:
    """Whether libraries are there, new enough, and those that hark was tested with.

    Args:
        found: package → version, None where it is not installed.
        needed: package → the oldest version that will do, where there is one.
    """
    missing = [name for name, version in found.items() if version is None]
    old = [
        f"{name} {version} (needs {needed[name]})"
        for name, version in found.items()
        if version is not None and name in needed and _order(version) < _order(needed[name])
    ]
    if missing or old:
        said = "; ".join(filter(None, (", ".join(missing) and f"without {', '.join(missing)}", ", ".join(old))))
        return Finding("versions", "problem", said, f"run: {INSTALL_TRAIN.replace('install', 'install -U')}")
    other = [
        f"{name} {version} (tested with {TESTED[name]})"
        for name, version in found.items()
        if version is not None and version.partition("+")[0] != TESTED[name]
    ]
    if other:
        return Finding("versions", "warning", ", ".join(other), "most likely fine; if not, use constraints.txt")
    return Finding("versions", "ok", ", ".join(f"{name} {version}" for name, version in found.items()))


def judge_audio(found: Audio) -> Finding:
    """Whether sound comes through the libraries as it went in."""
    said = f"libsndfile {found.libsndfile}, soxr {found.soxr}"
    if found.faults:
        again = "pip install --force-reinstall soundfile soxr"
        return Finding("audio", "problem", f"{said}: {'; '.join(found.faults)}", f"run: {again}")
    return Finding("audio", "ok", f"{said}: WAV and FLAC read and write")


def judge_synthesis(version: str | None, voices: int) -> Finding:
    """Whether clips can be synthesised."""
    if version is None:
        way = 'only hark synthesize and hark demo need it: pip install "hark-kws[synthesis]"'
        return Finding("synthesis", "ok", "espeak-ng is not installed", way)
    if not voices:
        said = f"espeak-ng (espeakng-loader {version}) has no voices"
        return Finding("synthesis", "problem", said, "run: pip install --force-reinstall espeakng-loader")
    return Finding("synthesis", "ok", f"espeak-ng (espeakng-loader {version}), {voices} voices")


def judge_tensorboard(version: str | None) -> Finding:
    """Whether runs can be mirrored to TensorBoard, which writes files only."""
    if version is None:
        way = 'only --track tensorboard needs it: pip install "hark-kws[track]"'
        return Finding("tensorboard", "ok", "not installed", way)
    return Finding("tensorboard", "ok", version)


def judge_wandb(version: str | None, *, mode: str, address: str, why_not: str | None) -> Finding:
    """Whether runs can be mirrored to W&B.

    Args:
        version: None where it is not installed.
        mode: WANDB_MODE; hark's own default is offline.
        address: of the server.
        why_not: why the server does not answer; None where it does.
    """
    if version is None:
        return Finding(
            "wandb", "ok", "not installed", 'only --track wandb needs it: pip install "hark-kws[track]"'
        )
    said = f"{version}, {mode}; {printable(address)} " + (f"does not answer: {why_not}" if why_not else "answers")
    if why_not and mode == "online":
        way = "use WANDB_MODE=offline, or replay tomorrow: hark track push RUN --to wandb"
        return Finding("wandb", "warning", said, way)
    return Finding("wandb", "ok", said)


def _synthesis() -> Finding:
    version = trials.installed("espeakng-loader")
    return judge_synthesis(version, trials.voices(limit_s=2 * LIMIT_S) if version else 0)


def _wandb() -> Finding:
    version, address = trials.installed("wandb"), os.environ.get("WANDB_BASE_URL") or WANDB_ADDRESS
    why_not = trials.unreachable(address, limit_s=SERVER_LIMIT_S) if version else None
    return judge_wandb(version, mode=os.environ.get("WANDB_MODE", "offline"), address=address, why_not=why_not)


def _bytes(count: int) -> str:
    """In words, to three digits."""
    power = max((power for power in range(5) if count >= 1000**power), default=0)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _order(version: str) -> tuple[int, ...]:
    """A version's leading numbers, for comparing."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])
