"""The engine's source, compiled for other machines and by other compilers: everywhere the same bits.

What is not installed here is skipped, and says so.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import hark
from front_ends import some_sound
from hark import _engine
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_layers import (
    Arithmetic,
    Attention,
    Convolution,
    DepthwiseConvolution,
    FastGrnn,
    Frame,
    Gru,
    Layer,
    Linear,
    MinimalGru,
    QueryAttention,
)
from hark.packed.packed_model import PackedModel
from hark.runtime import Model
from hark.shipping.wasm_page import CLANG
from packed_models import ARITHMETICS, SEPARABLE, Maker, random_model

ENGINE = Path(hark.__file__).parent / "engine"
HERE = Path(__file__).parent / "engine"
GOLDEN = Path(__file__).parent / "golden"
CHUNK = 700

EXACT = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", *EXACT]
ONE_LANE = ["-DHARK_LANES=1"]
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SMALL = ["-Os", "-ffreestanding", "-DHARK_ROM_FRONT_END_ONLY", "-DHARK_INT16_ONLY", "-DHARK_MOST_LAYERS=8"]
CORTEX_M4 = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", *SMALL]


@dataclass(frozen=True)
class Build:
    """A way to compile the engine, and to run what comes out."""

    compiler: str
    flags: Sequence[str]
    runner: Sequence[str] = ()


BUILDS = {
    "gcc, one lane, sanitizers": Build("gcc", [*SANITIZERS, *ONE_LANE]),
    "gcc, int16 only, sanitizers": Build("gcc", [*SANITIZERS, *ONE_LANE, "-DHARK_INT16_ONLY"]),
    "clang": Build("clang", ["-O2"]),
    "Arm 64 bit": Build("aarch64-linux-gnu-gcc", ["-O2", "-static"], ["qemu-aarch64"]),
}
MORE_BUILDS = {
    "gcc, sanitizers": Build("gcc", SANITIZERS),
    "gcc, small": Build("gcc", ["-Os", "-DHARK_STREAMS_AT_ONCE=1"]),
    "gcc, front end computed": Build("gcc", ["-O1", "-DHARK_NO_ROM_FRONT_END"]),
    "clang, one lane, sanitizers": Build("clang", [*SANITIZERS, *ONE_LANE]),
    "clang, sanitizers": Build("clang", SANITIZERS),
    "Arm 64 bit, one lane": Build("aarch64-linux-gnu-gcc", ["-O2", "-static", *ONE_LANE], ["qemu-aarch64"]),
}


@cache
def stage_2(arithmetic: Arithmetic) -> PackedModel:
    """A network of the stage-2 student's shape, with random weights."""
    rng = np.random.default_rng(0)
    make = Maker(arithmetic, rng)
    bias = rng.integers(-2, 2, 64).astype(np.int16 if arithmetic == "integer" else np.float32)
    layers = (
        make.affine(Frame(1, 40)),
        Convolution(make.matrix(2, 100), (5, 20), (2, 6)),
        Gru(make.matrix(48, 36, bias=False), make.matrix(48, 16, bias=False), bias),
        Attention(make.matrix(16, 16), make.matrix(1, 16, bias=False), 14),
        Linear(make.matrix(2, 16)),
    )
    labels = ("", "word")
    return PackedModel(arithmetic=arithmetic, front_end=LogMelConfig(), layers=layers, labels=labels).check()


def separable(arithmetic: Arithmetic) -> PackedModel:
    """A network of the smaller kinds, with random weights and one class."""
    make = Maker(arithmetic, np.random.default_rng(0))
    layers: tuple[Layer, ...] = (
        make.affine(Frame(1, 40)),
        Convolution(make.matrix(2, 5), (5, 1), (2, 1)),
        DepthwiseConvolution(make.matrix(2, 20), (1, 20), (1, 6)),
        make.linear(Frame(2, 18), outputs=8),
        make.cell(MinimalGru, Frame(1, 8), 16),
        make.cell(FastGrnn, Frame(1, 16), 12),
        QueryAttention(make.matrix(1, 12, bias=False), 14),
        make.linear(Frame(1, 12), outputs=1),
    )
    return PackedModel(arithmetic=arithmetic, front_end=LogMelConfig(), layers=layers, labels=("word",)).check()


@cache
def models() -> tuple[PackedModel, ...]:
    """The golden files, two students' networks, and some of every kind of layer on other front ends."""
    golden = [packing.load(path) for path in sorted(GOLDEN.glob("*.hark"))]
    mixed = [
        random_model(arithmetic, inner, seed=seed, front_end=front_end)
        for arithmetic in ARITHMETICS
        for inner in (["convolution", "activation", "pooling", "gru", "attention", "linear"], SEPARABLE)
        for seed, front_end in (
            (1, LogMelConfig(n_fft=60, hop_length=20, n_mels=12)),
            (2, LogMelConfig(n_fft=256)),
        )
    ]
    students = [make(arithmetic) for make in (stage_2, separable) for arithmetic in ARITHMETICS]
    return (*golden, *students, *mixed)


@cache
def files() -> tuple[bytes, ...]:
    return tuple(packing.to_bytes(model) for model in models())


@cache
def sound() -> npt.NDArray[np.int16]:
    return np.asarray(some_sound(12_000, seed=1), np.int16)


@cache
def expected() -> tuple[list[str], ...]:
    """The bits of every logit of each model, as the build inside this Python gives them."""
    outputs = (_engine.Model(file).stream().step_logits(sound()) for file in files())
    return tuple([f"{bits:08x}" for bits in output.view(np.uint32).ravel().tolist()] for output in outputs)


def needs(*tools: str) -> None:
    """Skip where a tool is missing."""
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed")


def run(command: Sequence[object]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_data(folder: Path) -> None:
    """Models and sound as C."""

    def numbers(values: Sequence[int]) -> str:
        return ", ".join(map(str, values))

    arrays = [f"static const unsigned char model_{i}[] = {{{numbers(file)}}};" for i, file in enumerate(files())]
    entries = [f"{{model_{i}, sizeof model_{i}}}" for i in range(len(files()))]
    lines = [
        *arrays,
        f"static const struct {{ const unsigned char *file; size_t bytes; }} models[] = {{{', '.join(entries)}}};",
        f"static const int16_t sound[] = {{{numbers(sound().tolist())}}};",
        f"enum {{ CHUNK = {CHUNK}, MEMORY_BYTES = 1 << 20, MOST_LOGITS = {4 * CHUNK} }};",
    ]
    (folder / "data.h").write_text("\n".join(lines) + "\n")


def outputs(text: str) -> list[list[str]]:
    """What each model of run.c or wasm.mjs has printed."""
    return [part.splitlines() for part in text.split("open ")[1:]]


def logits(lines: list[str]) -> list[str]:
    return [line for line in lines if re.fullmatch("[0-9a-f]{8}", line)]


def compile_run(build: Build, folder: Path, *sources: Path) -> Path:
    """The program that runs all models, from run.c and the engine, or what of it is compiled already."""
    needs(build.compiler, *build.runner)
    write_data(folder)
    inputs = [HERE / "run.c", *(sources or [ENGINE / "hark.c"])]
    run([build.compiler, *STRICT, f"-I{ENGINE}", f"-I{folder}", *inputs, "-o", folder / "run", *build.flags])
    return folder / "run"


def check_bits(build: Build, folder: Path) -> None:
    found = outputs(run([*build.runner, compile_run(build, folder)]))
    assert [logits(lines) for lines in found] == list(expected())


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_every_build_gives_the_same_bits(build: Build, tmp_path: Path) -> None:
    check_bits(build, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("build", MORE_BUILDS.values(), ids=MORE_BUILDS)
def test_more_builds_give_the_same_bits(build: Build, tmp_path: Path) -> None:
    check_bits(build, tmp_path)


@pytest.fixture(scope="module")
def cortex_m4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the engine for a Cortex-M4: hark.o, and its call graph hark.ci."""
    needs("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-arm")
    folder = tmp_path_factory.mktemp("m4")
    flags = [*STRICT, *CORTEX_M4, "-fcallgraph-info=su"]
    run(["arm-none-eabi-gcc", *flags, "-c", ENGINE / "hark.c", "-o", folder / "hark.o"])
    return folder


@pytest.fixture(scope="module")
def cortex_m4_outputs(cortex_m4: Path) -> list[list[str]]:
    """What it prints for each model."""
    build = Build("arm-none-eabi-gcc", [*CORTEX_M4, "-nostdlib", "-static", "-lgcc"], ["qemu-arm"])
    return outputs(run([*build.runner, compile_run(build, cortex_m4, cortex_m4 / "hark.o")]))


def test_a_cortex_m4_gives_the_same_bits_and_refuses_front_ends_that_it_has_not(
    cortex_m4_outputs: list[list[str]],
) -> None:
    assert len(cortex_m4_outputs) == len(models())
    for model, lines, bits in zip(models(), cortex_m4_outputs, expected(), strict=True):
        is_there = model.front_end == LogMelConfig()
        assert lines[0] == ("0" if is_there else "-7")
        assert logits(lines) == (bits if is_there else [])


def test_text_and_tables_for_a_cortex_m4_are_at_most_24_kilobytes(cortex_m4: Path) -> None:
    text, data, bss = map(int, run(["arm-none-eabi-size", cortex_m4 / "hark.o"]).splitlines()[1].split()[:3])
    assert text <= 24 * 1024
    assert data == bss == 0, "the engine has variables of its own"


def test_the_stage_2_student_runs_in_6_kilobytes_on_a_cortex_m4(
    cortex_m4: Path, cortex_m4_outputs: list[list[str]]
) -> None:
    """State, scratch, stack and the opened model, all together."""
    stack = deepest_stack((cortex_m4 / "hark.ci").read_text(), "hark_step")
    lines = cortex_m4_outputs[models().index(stage_2("integer"))]
    sizes = {name: int(size) for name, size in (line.split() for line in lines[1:4])}
    assert stack > 100
    told = Model(packing.to_bytes(stage_2("integer"))).device_memory
    assert stack == pytest.approx(told.stack, abs=64), "another gcc may count some bytes more or less"
    assert sizes["state"] + sizes["scratch"] + stack + sizes["model"] <= 6 * 1024
    assert 0 <= told.state + told.scratch - sizes["state"] - sizes["scratch"] <= 64


def deepest_stack(graph: str, function: str) -> int:
    """Bytes of stack below `function`, from gcc's call graph (-fcallgraph-info=su)."""
    bytes_of = {name: int(size) for name, size in re.findall(r'title: "([^"]+)" label: "[^"]*?(\d+) bytes', graph)}
    calls: dict[str, list[str]] = {}
    for caller, callee in re.findall(r'sourcename: "([^"]+)" targetname: "([^"]+)"', graph):
        calls.setdefault(caller, []).append(callee)

    def below(name: str) -> int:
        return bytes_of.get(name, 0) + max(map(below, calls.get(name, [])), default=0)

    return below(function)


@pytest.fixture(scope="module")
def wasm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The WebAssembly module, compiled as an export does."""
    needs("clang", "wasm-ld")
    module = tmp_path_factory.mktemp("wasm") / "hark.wasm"
    run([*CLANG, *STRICT, ENGINE / "wasm.c", "-o", module])
    return module


def test_webassembly_gives_the_same_bits(wasm: Path, tmp_path: Path) -> None:
    needs("node")
    sound().tofile(tmp_path / "sound.bin")
    paths = []
    for index, file in enumerate(files()):
        paths.append(tmp_path / f"{index}.hark")
        paths[-1].write_bytes(file)
    found = outputs(run(["node", HERE / "wasm.mjs", wasm, tmp_path / "sound.bin", CHUNK, *paths]))
    assert [logits(lines) for lines in found] == list(expected())


def test_the_webassembly_module_is_at_most_40_kilobytes(wasm: Path) -> None:
    assert wasm.stat().st_size <= 40_960


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_engine_calls_nothing_but_memory_functions(compiler: str, tmp_path: Path) -> None:
    needs(compiler, "nm")
    run([compiler, *STRICT, "-Os", "-c", ENGINE / "hark.c", "-o", tmp_path / "hark.o"])
    undefined = {line.split()[-1] for line in run(["nm", "--undefined-only", tmp_path / "hark.o"]).splitlines()}
    assert undefined <= {"memcpy", "memmove", "memset", "_GLOBAL_OFFSET_TABLE_"}
