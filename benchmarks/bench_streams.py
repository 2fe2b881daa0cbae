"""What a stream costs: the engine, our torch and onnxruntime, and the spotters of others, in one run on one core.

    benchmarks/streams/install_peers.sh     # once: the others, in an environment of their own
    python benchmarks/bench_streams.py [--quick]

Every contender runs in a fresh process with one thread on one core, all of them in turn, round after round, so
that a busy minute falls on all. Then: how long hark takes to begin, 20,000 live streams, instructions counted by
callgrind, the core's peak, where the instructions go, what other front ends would cost. Prints tables, appends one
JSON line to benchmarks/results/streams.jsonl and writes docs/performance.md. Takes gcc and valgrind, and some six
minutes; `--quick` takes one, and is for trying.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "streams"
sys.path.insert(0, str(HERE))

from machine_code import Programs  # noqa: E402
from models import FRONT_ENDS, NETWORKS, REFERENCE, spotter, write_front_ends, write_networks  # noqa: E402
from operations import front_end_flops, network_flops  # noqa: E402
from page import PAGE, RESULTS, goals, page  # noqa: E402

from hark.record.environment import environment  # noqa: E402

OURS, THEIRS = Path(sys.executable), HERE / ".venv" / "bin" / "python"
ENGINE = {
    f"{network}, {form}{', 64 streams' * (kind == 'HarkBatch')}": (
        kind,
        f"{network.replace(' ', '-')}-{form}.hark",
    )
    for network in ("stage 2", "base")
    for form in ("int8", "float32")
    for kind in ("HarkEngine", "HarkBatch")
}
OTHER_RUNTIMES = {
    f"{network}, {runtime}": (kind, f"{network.replace(' ', '-')}{suffix}")
    for network in ("stage 2", "base")
    for runtime, kind, suffix in (("onnxruntime", "HarkOnnx", ".onnx"), ("torch", "HarkTorch", ".safetensors"))
}
PEERS = {
    "openWakeWord": ("OpenWakeWord",),
    "pymicro-wakeword": ("MicroWakeWord",),
    "LiteRT, the same model": ("LiteRt",),
    "silero-vad": ("SileroVad",),
    "webrtcvad": ("WebRtcVad",),
}
CONTENDERS = {
    **ENGINE,
    "stage 2, int8, chunks of 10 ms": ("HarkEngine", "stage-2-int8.hark", "10"),
    **OTHER_RUNTIMES,
    **PEERS,
}
COUNTED = [*ENGINE, "stage 2, int8, chunks of 10 ms", "pymicro-wakeword", "LiteRT, the same model", "webrtcvad"]
"""The others load for minutes under valgrind."""
COUNTED_QUICKLY = ["stage 2, int8", "stage 2, int8, 64 streams", "pymicro-wakeword"]


class Bench:
    """One run's settings, and the folder in which its models and programs lie."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        show("models and programs")
        self.folder, self.quick = folder, quick
        write_networks(folder)
        write_front_ends(folder)
        self.programs = Programs(folder)

    def contenders(self) -> dict[str, dict[str, Any]]:
        """Of each contender what `summary` says of its rounds, or why it does not run."""
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        failed: dict[str, dict[str, Any]] = {}
        budget = ["--cpu-seconds", "0.1" if self.quick else "0.5"]
        for number in range(1 if self.quick else 5):
            for name in [name for name in CONTENDERS if name not in failed]:
                show(f"round {number + 1}: {name}")
                try:
                    rounds[name].append(
                        answer("measure.py", *self.arguments(name), *budget, python=python_of(name))
                    )
                except (OSError, subprocess.SubprocessError) as error:
                    failed[name] = {"failed": reason(error)}
        found = {name: summary(rounds[name]) for name in CONTENDERS if name not in failed} | failed
        for name in COUNTED_QUICKLY if self.quick else COUNTED:
            if name not in failed:
                show(f"instructions: {name}")
                try:
                    counted = self.programs.instructions(python_of(name), self.arguments(name))
                    found[name]["instructions_per_second"] = counted
                except subprocess.SubprocessError as error:  # its time is measured all the same
                    show(f"not counted: {reason(error)}")
        return found

    def arguments(self, name: str) -> list[str]:
        """What measure.py takes for a contender."""
        kind, *arguments = CONTENDERS[name]
        return [kind, *(str(self.folder / text) if "." in text else text for text in arguments)]

    def startup(self) -> dict[str, dict[str, float]]:
        """How long hark takes to begin, with the smallest model and the largest."""
        show("startup")
        found = {}
        for name in ("stage 2, int8", "base, float32"):
            runs = [answer("startup.py", self.folder / CONTENDERS[name][1]) for _ in range(3 if self.quick else 9)]
            found[name] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        return found

    def live(self) -> dict[str, float]:
        """20,000 streams in real time."""
        show("20,000 live streams")
        return answer("live.py", self.folder / "stage-2-int8.hark", "--seconds", "3" if self.quick else "32")

    def arithmetic(self) -> dict[str, Any]:
        """What must be computed, how fast a core can, and how fast the engine does in a C loop."""
        show("peak, C loops")
        files = {name: self.folder / CONTENDERS[name][1] for name in ("stage 2, int8", "base, float32")}
        return {
            "peak_gflops": self.programs.peak_gflops(),
            "front_end_flops": front_end_flops(REFERENCE),
            "network_flops": {
                name: network_flops(spotter(config, REFERENCE)[0]) for name, config in NETWORKS.items()
            },
            "loop_us": {name: self.programs.loop_us(file, streams=1) for name, file in files.items()},
            "loop_64_us": {name: self.programs.loop_us(file, streams=64) for name, file in files.items()},
            "profile": {
                f"{name}{', 16 streams' * (streams > 1)}": self.programs.profile(file, streams=streams)
                for name, file in files.items()
                for streams in (1, 16)
            },
        }

    def front_ends(self) -> dict[str, dict[str, float]]:
        """What each front end costs, alone and with the stage-2 network behind it."""
        found = {}
        for number, (name, settings) in enumerate(FRONT_ENDS.items()):
            show(f"front end: {name}")
            alone, whole = (self.folder / f"{kind}-{number}.hark" for kind in ("alone", "whole"))
            found[name] = {
                "flops": front_end_flops(settings),
                "alone_instructions": sum(self.programs.profile(alone, streams=16).values()),
                "whole_instructions": sum(self.programs.profile(whole, streams=16).values()),
                "single_instructions": sum(self.programs.profile(whole).values()),
                "whole_64_us": self.programs.loop_us(whole, streams=64),
            }
        return found


def summary(rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The median of each figure; of the cost also the lowest, the highest, and that of each round."""
    costs = [one["us_per_second"] for one in rounds]
    middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    return middle | {"us_low": min(costs), "us_high": max(costs), "us_rounds": costs}


def python_of(name: str) -> Path:
    """The interpreter of a contender."""
    return THEIRS if name in PEERS else OURS


def answer(script: str, *arguments: str | Path, python: Path = OURS) -> dict[str, float]:
    """What a script of this folder prints, run with one thread."""
    command = [str(python), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def reason(error: Exception) -> str:
    """Why a contender does not run, in a line."""
    if isinstance(error, FileNotFoundError):
        return "not installed; run benchmarks/streams/install_peers.sh"
    said = str(getattr(error, "stderr", None) or error).strip()
    return said.splitlines()[-1]


def peer_versions() -> dict[str, str]:
    """The packages of the peers' environment."""
    if not THEIRS.exists():
        return {}
    listed = subprocess.run(
        [str(THEIRS), "-m", "pip", "freeze"], capture_output=True, text=True, check=True
    ).stdout
    return dict(line.split("==") for line in listed.splitlines() if "==" in line)


def show(what: str) -> None:
    """Progress."""
    print(what, file=sys.stderr, flush=True)


def table(results: dict[str, Any]) -> str:
    """The contenders, as text."""
    lines = [f"{'':<34}{'µs/s':>9}{'streams':>9}{'p50 µs':>9}{'p99 µs':>9}{'MB':>7}{'load ms':>9}{'Minstr/s':>10}"]
    for name, found in results["contenders"].items():
        if "failed" in found:
            lines.append(f"{name:<34}{found['failed']}")
            continue
        counted = found.get("instructions_per_second")
        lines.append(
            f"{name:<34}{found['us_per_second']:>9,.1f}{1e6 / found['us_per_second']:>9,.0f}"
            f"{found['chunk_us_p50']:>9,.1f}{found['chunk_us_p99']:>9,.1f}{found['peak_rss_mb']:>7.0f}"
            f"{found['load_ms']:>9,.0f}{f'{counted / 1e6:.3f}' if counted else '–':>10}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, append, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round, for trying")
    parser.add_argument("--page-only", action="store_true", help="write the page from the last results")
    options = parser.parse_args()
    if not options.page_only:
        if missing := [tool for tool in ("gcc", "valgrind", "taskset") if not shutil.which(tool)]:
            sys.exit(f"{', '.join(missing)}: not there; on Debian: apt install gcc valgrind util-linux")
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), quick=options.quick)
            results = {
                "date": datetime.now(UTC).date().isoformat(),
                "quick": options.quick,
                "environment": environment(),
                "peers": peer_versions(),
                "contenders": bench.contenders(),
                "startup": bench.startup(),
                "live": bench.live(),
                "arithmetic": bench.arithmetic(),
                "front_ends": bench.front_ends(),
            }
        with RESULTS.open("a") as file:
            file.write(json.dumps(results) + "\n")
    results = json.loads(RESULTS.read_text().splitlines()[-1])
    print(table(results))
    for goal in goals(results):
        print(goal)
    PAGE.write_text(page(results))


if __name__ == "__main__":
    main()
