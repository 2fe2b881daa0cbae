"""The doctor: each fault of a machine is found from the facts alone, said in one line with what to do about it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import hark.cli.doctor
from hark.cli.doctor import doctor as doctor_command
from hark.record import doctor
from hark.record.doctor import TESTED, Finding
from hark.record.trials import Audio, Clock, Disk, Gpu
from hark.resources import Memory, Processor

GB = 10**9
CORES = Processor(name="AMD EPYC", cores=4, allowed=4, quota=None, threads_wanted=None)
MEMORY = Memory(total=16 * GB, available=12 * GB, limit=None)
CPU_ONLY = Gpu(torch="2.13.0+cpu", loads=True, build=None, gpu=None, complaint="", nodes=0, visible=None)
BLIND = Gpu(torch="2.13.0", loads=True, build="12.9", gpu=None, complaint="", nodes=1, visible=None)
DISK = Disk(folder=Path("/runs"), file_system="ext4", free_bytes=80 * GB, free_files=10**6, save_s=0.015)
CLOCK = Clock(now=datetime(2026, 11, 23, 23, 5, tzinfo=UTC), passed_s=0.5, true_s=0.5)
AUDIO = Audio(libsndfile="1.2.2", soxr="1.1.0", faults=())
WANDB = {"mode": "offline", "address": "https://api.wandb.ai", "why_not": None}
OFFLINE = {**WANDB, "why_not": "Name or service not known"}
OLDEST = {"numpy": "2.0", "torch": "2.6"}

GOOD = [
    (doctor.judge_processor(CORES), "4 cores, AMD EPYC"),
    (doctor.judge_processor(replace(CORES, allowed=2)), "4 cores, 2 allowed, AMD EPYC"),
    (doctor.judge_processor(replace(CORES, quota=1.5)), "4 cores, 1.5 by the container's limit, AMD EPYC"),
    (doctor.judge_processor(replace(CORES, threads_wanted="4")), "4 cores, AMD EPYC; OMP_NUM_THREADS is 4"),
    (doctor.judge_memory(MEMORY), "16 GB, 12 GB free"),
    (doctor.judge_memory(replace(MEMORY, limit=4 * GB)), "4 GB by the container's limit, 4 GB free"),
    (doctor.judge_memory(Memory(total=None, available=None, limit=None)), "unknown on this system"),
    (doctor.judge_gpu(CPU_ONLY), "no GPU, trains on the CPU; torch 2.13.0+cpu"),
    (doctor.judge_gpu(replace(CPU_ONLY, loads=None)), "no GPU, trains on the CPU; torch 2.13.0+cpu"),
    (doctor.judge_gpu(replace(BLIND, gpu="NVIDIA H100")), "NVIDIA H100, torch 2.13.0"),
    (doctor.judge_disk(DISK), "/runs (ext4): 80 GB free, a checkpoint takes 15 ms"),
    (doctor.judge_shared_memory(8 * GB), "8 GB in /dev/shm; hark needs none, its workers use pipes"),
    (doctor.judge_shared_memory(64 << 10), "65.5 kB in /dev/shm; hark needs none"),
    (doctor.judge_shared_memory(None), "none on this system; hark needs none"),
    (doctor.judge_open_files(1024), "at most 1024"),
    (doctor.judge_clock(CLOCK), "2026-11-23 23:05 UTC"),
    (doctor.judge_versions(TESTED | {"torch": "2.13.0+cu129"}, OLDEST), "torch 2.13.0+cu129"),
    (doctor.judge_audio(AUDIO), "libsndfile 1.2.2, soxr 1.1.0: WAV and FLAC read and write"),
    (doctor.judge_synthesis("0.2.4", 141), "espeak-ng (espeakng-loader 0.2.4), 141 voices"),
    (doctor.judge_synthesis(None, 0), "espeak-ng is not installed"),
    (doctor.judge_tensorboard("2.21.0"), "2.21.0"),
    (doctor.judge_tensorboard(None), "not installed"),
    (doctor.judge_wandb("0.31.0", **WANDB), "0.31.0, offline; https://api.wandb.ai answers"),
    (doctor.judge_wandb("0.31.0", **OFFLINE), "does not answer: Name or service not known"),
    (doctor.judge_wandb(None, **WANDB), "not installed"),
]
WARNINGS = [
    (doctor.judge_processor(replace(CORES, quota=0.5)), "2.0 times as long as on one core", "--cpus 2"),
    (doctor.judge_processor(replace(CORES, threads_wanted="64")), "OMP_NUM_THREADS is 64", "set it to 4"),
    (doctor.judge_processor(replace(CORES, quota=2.9, threads_wanted="4")), "2.9 by the container", "set it to 2"),
    (doctor.judge_processor(replace(CORES, threads_wanted="many")), "OMP_NUM_THREADS is many", "unset it"),
    (doctor.judge_processor(replace(CORES, threads_wanted="0")), "OMP_NUM_THREADS is 0", "unset it"),
    (doctor.judge_memory(replace(MEMORY, available=GB)), "16 GB, 1 GB free", "end something"),
    (doctor.judge_memory(replace(MEMORY, limit=2 * GB)), "2 GB by the container's limit", "allow it more"),
    (doctor.judge_gpu(replace(CPU_ONLY, nodes=1)), "2.13.0+cpu was built without CUDA", "pytorch.org"),
    (doctor.judge_gpu(replace(BLIND, visible="")), "CUDA_VISIBLE_DEVICES is ''", "unset it"),
    (doctor.judge_gpu(replace(BLIND, complaint="driver too old")), "cannot use it: driver too old", "nvidia-smi"),
    (doctor.judge_gpu(BLIND), "cannot use it: it gives no reason", "nvidia-smi"),
    (doctor.judge_gpu(replace(BLIND, loads=None)), "took too long to say", "less busy"),
    (doctor.judge_disk(replace(DISK, free_bytes=GB)), "1 GB free", "free some space"),
    (doctor.judge_disk(replace(DISK, file_system="tmpfs")), "(tmpfs)", "gone when the machine restarts"),
    (doctor.judge_disk(replace(DISK, free_files=99)), "room for 99 files", "remove files"),
    (doctor.judge_disk(replace(DISK, save_s=1.25)), "takes 1250 ms", "choose a local one"),
    (doctor.judge_open_files(256), "at most 256", "ulimit -n 4096"),
    (doctor.judge_clock(replace(CLOCK, passed_s=50.0)), "went 50.0 s in 0.5 s", "time service"),
    (doctor.judge_clock(replace(CLOCK, passed_s=-3600.0)), "went -3600.0 s in 0.5 s", "time service"),
    (doctor.judge_clock(replace(CLOCK, now=datetime(1970, 1, 1, tzinfo=UTC))), "1970-01-01", "set it"),
    (doctor.judge_clock(replace(CLOCK, now=datetime(2242, 1, 1, tzinfo=UTC))), "2242-01-01", "set it"),
    (doctor.judge_versions(TESTED | {"torch": "2.9.1"}, OLDEST), "torch 2.9.1 (tested with", "constraints.txt"),
    (doctor.judge_wandb("0.31.0", **OFFLINE | {"mode": "online"}), "does not answer", "hark track push"),
]  # fmt: skip
PROBLEMS = [
    (doctor.judge_memory(replace(MEMORY, available=GB // 3)), "333 MB free", "a training takes some 1 GB"),
    (doctor.judge_gpu(replace(CPU_ONLY, torch=None)), "torch is not installed", "hark-kws[train]"),
    (
        doctor.judge_gpu(replace(CPU_ONLY, loads=False, complaint="no libomp.so")),
        "does not load: no libomp.so",
        "--force-reinstall torch",
    ),
    (doctor.judge_disk(replace(DISK, free_bytes=GB // 100)), "10 MB free", "another --out"),
    (doctor.judge_versions(TESTED | {"numpy": None}, OLDEST), "without numpy", "hark-kws[train]"),
    (doctor.judge_versions(TESTED | {"torch": "2.5.10"}, OLDEST), "torch 2.5.10 (needs 2.6)", "install -U"),
    (doctor.judge_audio(replace(AUDIO, faults=("FLAC comes back",))), "FLAC comes back", "--force-reinstall"),
    (doctor.judge_synthesis("0.2.4", 0), "has no voices", "--force-reinstall espeakng-loader"),
]


@pytest.mark.parametrize(("finding", "said"), GOOD)
def test_what_is_well_is_said_to_be(finding: Finding, said: str) -> None:
    assert finding.verdict == "ok"
    assert said in finding.said


@pytest.mark.parametrize(("finding", "said", "advice"), WARNINGS)
def test_what_could_spoil_a_night_is_a_warning_with_a_way_out(finding: Finding, said: str, advice: str) -> None:
    assert finding.verdict == "warning"
    assert said in finding.said + finding.advice
    assert advice in finding.advice


@pytest.mark.parametrize(("finding", "said", "advice"), PROBLEMS)
def test_what_would_spoil_it_is_a_problem_with_a_way_out(finding: Finding, said: str, advice: str) -> None:
    assert finding.verdict == "problem"
    assert said in finding.said
    assert advice in finding.advice


def test_every_finding_is_one_line_and_names_its_topic() -> None:
    for finding, *_ in (*GOOD, *WARNINGS, *PROBLEMS):
        assert finding.topic
        assert (finding.said + finding.advice).isprintable()


def test_what_does_not_answer_is_a_finding_and_nobody_waits_for_it() -> None:
    never = threading.Event()

    def silent() -> Finding:
        never.wait()
        return Finding("disk", "ok", "late")

    for limit_s in (0.2, 2, 20):  # on a busy machine even the clock may need longer
        disk, clock = doctor.ask(
            {"disk": silent, "clock": lambda: Finding("clock", "ok", "well")}, limit_s=limit_s
        )
        assert (disk.topic, disk.verdict, disk.said) == ("disk", "warning", f"no answer within {limit_s} s")
        if clock.said == "well":
            break
    never.set()
    assert (clock.topic, clock.verdict) == ("clock", "ok")


def test_a_question_that_fails_is_a_problem_and_spoils_no_other() -> None:
    def failing() -> Finding:
        raise OSError(5, "Input/output error")

    findings = doctor.ask({"disk": failing, "clock": lambda: Finding("clock", "ok", "well")}, limit_s=60)
    assert [(found.topic, found.verdict) for found in findings] == [("disk", "problem"), ("clock", "ok")]
    assert "Input/output error" in findings[0].said


def test_all_is_asked_at_once() -> None:
    """Twelve that wait for each other can only all answer if all have begun."""
    together = threading.Barrier(12, timeout=30)

    def question(topic: str) -> Callable[[], Finding]:
        return lambda: Finding(topic, "ok", str(together.wait()))

    findings = doctor.ask({str(number): question(str(number)) for number in range(12)}, limit_s=60)
    assert [found.topic for found in findings] == [str(number) for number in range(12)]
    assert {found.verdict for found in findings} == {"ok"}


def test_the_versions_it_was_tested_with_are_those_of_the_constraints() -> None:
    constraints = (Path(__file__).parents[1] / "constraints.txt").read_text()
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", constraints, re.M))
    # torch is pinned where it is installed, first and alone.
    assert {name: pinned.get(name) for name in TESTED} == TESTED


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Gives what the command makes of some findings."""

    def call(*findings: Finding, options: tuple[str, ...] = ()) -> Result:
        monkeypatch.setattr(hark.cli.doctor, "examine", lambda place: list(findings))
        return CliRunner().invoke(doctor_command, options)

    return call


FINE = Finding("clock", "ok", "2026-11-23 23:05 UTC")
SLOW = Finding("disk", "warning", "slow", "choose another")
NONE = Finding("device", "problem", "no torch", "install it")


def test_the_command_prints_a_line_each_and_fails_only_of_a_problem(told: Callable[..., Result]) -> None:
    well = told(FINE, SLOW)
    assert well.exit_code == 0
    assert well.stdout.splitlines() == [
        "ok       clock          2026-11-23 23:05 UTC",
        "warning  disk           slow; choose another",
        "no problem, 1 warning",
    ]
    ill = told(FINE, NONE, SLOW, NONE)
    assert ill.exit_code == 1
    assert ill.stdout.splitlines()[-1] == "2 problems, 1 warning"


def test_the_command_tells_a_machine_as_much(told: Callable[..., Result]) -> None:
    outcome = told(FINE, NONE, options=("--json",))
    assert outcome.exit_code == 1
    assert json.loads(outcome.stdout) == [
        {"topic": "clock", "verdict": "ok", "said": "2026-11-23 23:05 UTC", "advice": ""},
        {"topic": "device", "verdict": "problem", "said": "no torch", "advice": "install it"},
    ]


def test_it_looks_at_this_machine_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    findings = {found.topic: found for found in doctor.examine(tmp_path, limit_s=60)}
    assert set(findings) == {
        *("processor", "memory", "device", "disk", "shared memory", "open files", "clock", "versions", "audio"),
        *("synthesis", "tensorboard", "wandb"),
    }
    assert str(tmp_path) in findings["disk"].said
    assert findings["audio"].verdict == "ok"
    assert list(tmp_path.iterdir()) == []
