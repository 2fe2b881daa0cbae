"""Coverage-guided fuzzing of every parser, with atheris: tests/fuzz/parsers.py has the parsers and their law.

    pip install "hark-kws[fuzz]"
    python benchmarks/fuzz.py [--target recipe --target wav ...] [--seconds 600]

Each parser gets a process of its own, which begins with its examples and keeps what reaches new code. An exception
other than a `HarkError` of one line, 256 MiB more memory than at the beginning or 10 s for one input is a failure;
the input is printed, to become a test. Prints a table, appends a JSON line per parser to
benchmarks/results/fuzz.jsonl and exits with 1 after any failure.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "fuzz")]

RESULTS = Path(__file__).parent / "results" / "fuzz.jsonl"
INSTRUMENTED = ["hark", "tomllib", "tarfile", "gzip", "zipfile"]
MEMORY_MIB = 256
HANG_S = 10
LONGEST_BYTES = 1 << 16
LAST_LINES = 40
SHARE_OF_VALUES = 0.3


@dataclass(frozen=True)
class Outcome:
    """What became of one parser; `failure` is empty or the end of what was said, and `input` what caused it."""

    target: str
    executions: int
    executions_per_s: float
    features: int
    failure: str = ""
    input: str = ""


def fuzz(target: str, *, seconds: int) -> Outcome:
    """Fuzz one parser in a process of its own."""
    with tempfile.TemporaryDirectory() as home:
        # Not captured by a pipe: helpers of hark's that outlive the process would hold it open.
        said = Path(home, "said")
        with said.open("wb") as file:
            command = [sys.executable, __file__, "--inside", target, "--seconds", str(seconds), "--home", home]
            ended = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
        told = said.read_text(errors="replace")
        inputs = [base64.b64encode(path.read_bytes()).decode() for path in sorted(Path(home).glob("*-*"))]
    rate = _last(r"stat::average_exec_per_sec: *(\d+)", told) or _last(r"exec/s: (\d+)", told)
    return Outcome(
        target=target,
        executions=_last(r"stat::number_of_executed_units: *(\d+)", told) or _last(r"^#(\d+)", told),
        executions_per_s=rate,
        features=_last(r"ft: (\d+)", told),
        failure="\n".join(told.splitlines()[-LAST_LINES:]) if ended.returncode or inputs else "",
        input=inputs[0] if inputs else "",
    )


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text, re.M)
    return int(found[-1]) if found else 0


def run_inside(target: str, *, seconds: int, home: Path) -> None:
    """Fuzz one parser in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from mutations import ODD, SCALAR
        from parsers import PARSERS
    parser = PARSERS[target]
    corpus = home / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(parser.seeds()):
        (corpus / str(number)).write_bytes(seed)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        """Another value in the place of one, or what libFuzzer thinks of."""
        rng = random.Random(seed)
        places = list(SCALAR.finditer(data)) if rng.random() < SHARE_OF_VALUES else []
        if not places:
            return bytes(atheris.Mutate(data, max_size))
        old = rng.choice(places)
        return (data[: old.start()] + rng.choice(ODD) + data[old.end() :])[:max_size]

    atheris.Setup(_options(seconds, home, corpus), _once(parser.takes), custom_mutator=mutate)
    atheris.Fuzz()


def _once(takes: Callable[[bytes, Path], bool]) -> Callable[[bytes], None]:
    def once(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            takes(data, Path(folder))

    return once


def _options(seconds: int, home: Path, corpus: Path) -> list[str]:
    """LibFuzzer's options; its limit of memory is absolute, so what is loaded by now is added."""
    status = Path("/proc/self/status")
    loaded = re.search(r"VmRSS:\s+(\d+)", status.read_text()) if status.exists() else None
    memory = MEMORY_MIB + (int(loaded[1]) // 1024 if loaded else 1024)
    return [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={memory}",
        f"-timeout={HANG_S}",
        f"-max_len={LONGEST_BYTES}",
        f"-artifact_prefix={home}/",
        "-print_final_stats=1",
        "-seed=1",
    ]


def main() -> None:
    """Fuzz all parsers, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", dest="targets", help="a parser; may come again")
    parser.add_argument("--seconds", type=int, default=600, help="for each parser (600)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON lines go")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        run_inside(options.inside, seconds=options.seconds, home=options.home)
        return
    from parsers import PARSERS

    from hark.record.environment import environment

    if unknown := set(options.targets or ()) - PARSERS.keys():
        parser.error(f"no parser {', '.join(sorted(unknown))}; expected some of {', '.join(PARSERS)}")
    about = environment()
    failed = False
    print(f"{'parser':<18}{'executions':>12}{'per second':>12}{'features':>10}  outcome")
    for target in options.targets or PARSERS:
        outcome = fuzz(target, seconds=options.seconds)
        print(
            f"{target:<18}{outcome.executions:>12,}{outcome.executions_per_s:>12,}{outcome.features:>10,}"
            f"  {'FAILED' if outcome.failure else 'held'}",
            flush=True,
        )
        if outcome.failure:
            failed = True
            print(f"{outcome.failure}\ninput, base64: {outcome.input}", flush=True)
        with options.results.open("a") as file:
            file.write(json.dumps({**asdict(outcome), "seconds": options.seconds, "environment": about}) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
