"""`hark quantize --sound`, `pack`, `export`, `cost`: from a trained model to what runs elsewhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import Hark
from hark.judging.detection import OperatingPoint
from hark.learning.dataset import Source
from hark.network.spotter import Spotter
from hark.packed import packing
from hark.record.runs import PACKED_FILE, Run
from hark.runtime import Model, Runner
from hark.shipping.c_folder import export_c
from hark.shipping.model_packing import pack
from hark.shipping.torch_runner import TorchRunner
from hark.shrinking.integer_network import Calibration, IntegerCrnn
from hark.shrinking.quantization import quantize
from hark.sound.pieces import pieces
from hark.storage.model_files import load, to_bytes
from test_engine_builds import needs

GOLDEN = Path(__file__).parent / "golden" / "v1-float32.hark"


@pytest.fixture
def old_run(mini_runs: Path, tmp_path: Path) -> Path:
    """A finished run without the file that is shipped."""
    leave_out = shutil.ignore_patterns("checkpoints", PACKED_FILE)
    return Path(shutil.copytree(mini_runs / "base", tmp_path / "old", ignore=leave_out))


@pytest.fixture
def model(tiny_spotter: Callable[[], Spotter], tmp_path: Path) -> Path:
    """A model's file, of no run."""
    (tmp_path / "model.safetensors").write_bytes(to_bytes(tiny_spotter()))
    return tmp_path / "model.safetensors"


@pytest.fixture
def int8(hark_: Hark, model: Path, tiny_source: Source) -> Path:
    """The same in integers."""
    path = model.with_name("int8.safetensors")
    assert hark_("quantize", model, "--sound", tiny_source.root, "--out", path).code == 0
    return path


def logits(runner: Runner) -> np.ndarray:
    sound = (3_000 * np.random.default_rng(0).normal(size=32_000)).astype(np.int16)
    return runner.stream().step_logits(sound)


def test_a_packed_model_is_the_model(hark_: Hark, model: Path, int8: Path) -> None:
    for source, allowed in ((model, 1e-5), (int8, 0.01)):
        out = source.with_suffix(".hark")
        assert hark_("pack", source, "--out", out).code == 0
        assert np.abs(logits(Model(out)) - logits(TorchRunner(load(source)))).max() <= allowed
    assert [Model(path.with_suffix(".hark")).is_integer for path in (model, int8)] == [False, True]


def test_pack_tells_bytes_labels_and_operating_point(hark_: Hark, model: Path) -> None:
    options = ["--threshold", 0.75, "--smoothing", 3, "--refractory", 0.5]
    done = hark_("pack", model, "--out", "beep.hark", *options)
    size = Path("beep.hark").stat().st_size
    told = "spots 'beep' at threshold 0.75, 3 steps averaged, 0.5 s refractory"
    assert done == (0, f"beep.hark: {size:,} bytes, {told}\n", "")
    assert Model("beep.hark").operating_point == OperatingPoint(0.75, 3, 0.5)
    assert hark_("pack", model, "--out", "bare.hark").out.endswith("spots 'beep' without an operating point\n")


def test_the_threshold_that_judging_found_is_the_operating_point(hark_: Hark, old_run: Path) -> None:
    threshold = Run.open(old_run).read_json("stream.json")["threshold"]
    assert hark_("pack", old_run, "--out", "a.hark").code == 0
    assert Model("a.hark").operating_point == OperatingPoint(float(np.float32(threshold)))
    assert hark_("pack", old_run, "--out", "b.hark", "--smoothing", 4).code == 0
    assert Model("b.hark").operating_point == OperatingPoint(float(np.float32(threshold)), 4)


def test_a_packed_file_gets_another_operating_point_and_keeps_all_else(hark_: Hark, tmp_path: Path) -> None:
    before = replace(packing.load(GOLDEN), metadata={"licence": "CC0-1.0"})
    (tmp_path / "before.hark").write_bytes(packing.to_bytes(before))
    assert hark_("pack", "before.hark", "--out", "after.hark", "--threshold", 0.25).code == 0
    point = before.operating_point
    assert point
    expected = replace(before, operating_point=replace(point, threshold=0.25))
    assert Path("after.hark").read_bytes() == packing.to_bytes(expected)


def test_of_a_run_the_file_that_it_ships_is_exported(hark_: Hark, old_run: Path) -> None:
    """Whatever it says: nobody may pack it again with other numbers."""
    packed = replace(packing.load(GOLDEN), metadata={})
    (old_run / PACKED_FILE).write_bytes(packing.to_bytes(packed))
    assert hark_("export", old_run, "--to", "c", "--out", "c").code == 0
    assert f"#define MODEL_BYTES {len(packing.to_bytes(packed))}\n" in Path("c/model.h").read_text()


def test_quantizing_with_sound_is_repeatable_and_takes_few_bits(
    hark_: Hark, model: Path, int8: Path, tiny_source: Source
) -> None:
    out = model.with_name("again.safetensors")
    assert hark_("quantize", model, "--sound", tiny_source.root, "--out", out).code == 0
    assert out.read_bytes() == int8.read_bytes()
    assert hark_("quantize", model, "--sound", tiny_source.root, "--bits", 4, "--out", out).code == 0
    sizes = [len(packing.to_bytes(pack(load(path)))) for path in (int8, out)]
    assert sizes[1] < sizes[0] < model.stat().st_size


def test_one_scale_per_matrix_makes_a_smaller_file(
    hark_: Hark, model: Path, int8: Path, tiny_source: Source
) -> None:
    out = model.with_name("matrix.safetensors")
    assert hark_("quantize", model, "--sound", tiny_source.root, "--scales", "matrix", "--out", out).code == 0
    sizes = [len(packing.to_bytes(pack(load(path)))) for path in (int8, out)]
    assert sizes[1] < sizes[0] - 2 * 36, "of two cells with 18 rows in each of two matrices"
    outcome = hark_("quantize", model, "--scales", "matrix", "--out", out)
    assert outcome.code == 2
    assert "--scales matrix: expected --sound FOLDER beside it" in outcome.err


def test_ranges_are_measured_on_seconds_from_all_over_the_recordings(
    hark_: Hark, model: Path, tiny_source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []

    def measure(spotter: Spotter, waveforms: torch.Tensor) -> Calibration:
        heard.append(waveforms.numpy())
        return Calibration(feature_bits=9, map_bits=7)

    monkeypatch.setattr("hark.shrinking.integer_quantization.calibrate", measure)
    assert hark_("quantize", model, "--sound", tiny_source.root, "--out", "int8.safetensors").code == 0
    assert np.array_equal(heard[0], pieces(tiny_source.root, most=512, sample_rate=16_000))
    network = load(Path("int8.safetensors")).network
    assert isinstance(network, IntegerCrnn)
    assert network.calibration == Calibration(feature_bits=9, map_bits=7)


def test_c_is_exported_from_a_model_packed_on_the_way(hark_: Hark, model: Path, tmp_path: Path) -> None:
    assert hark_("export", model, "--to", "c", "--out", "found").out == (
        "found: a folder of C for 'beep'; README.md tells what to do\n"
    )
    export_c(packing.to_bytes(pack(load(model))), tmp_path / "expected")
    assert texts(tmp_path / "found") == texts(tmp_path / "expected")


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_page_for_browsers_is_exported(hark_: Hark, model: Path) -> None:
    needs("clang", "wasm-ld")
    assert hark_("export", model, "--to", "wasm", "--out", "page").code == 0
    assert Path("page/word.hark").read_bytes() == packing.to_bytes(pack(load(model)))
    assert Path("page/index.html").exists()


def test_an_onnx_graph_is_exported_with_its_options(hark_: Hark, model: Path) -> None:
    onnx = pytest.importorskip("onnx")
    done = hark_("export", model, "--to", "onnx", "--out", "beep.onnx", "--steps", 2, "--features")
    assert done.code == 0, done.err
    assert done.out.startswith(f"beep.onnx: {Path('beep.onnx').stat().st_size:,} bytes, at most ")
    chunk = onnx.load("beep.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [entry.dim_value for entry in chunk] == [1, 40, 2 * 16]


REFUSED = {
    "pack model.safetensors --out beep.bin": (2, "--out beep.bin: expected a name that ends in .hark"),
    "pack model.safetensors --out a.hark --smoothing 2": (2, "no threshold is known for this model"),
    "pack rows.safetensors --out a.hark": (1, "only the weights are quantised"),
    "export rows.safetensors --to c --out a": (1, "quantise the float model anew: hark quantize --sound"),
    "pack none.hark --out a.hark": (1, "none.hark: "),
    "pack golden.hark --out none/a.hark": (1, "none/a.hark: No such file or directory; make its folder"),
    "export golden.hark --to onnx --out a.onnx": (2, "golden.hark: no ONNX graph is made of a .hark file"),
    "export golden.hark --to c --out a --steps 2": (2, "--steps and --features are for --to onnx, found --to c"),
    "export golden.hark --to wasm --out a --features": (2, "are for --to onnx, found --to wasm"),
    "export golden.hark --to c --out .": (2, "is not empty, expected a new or an empty folder"),
    "export golden.hark --to c --out golden.hark": (1, "golden.hark: Not a directory; choose another name"),
    "quantize model.safetensors --out a.hark": (2, "--out a.hark: expected a name that ends in .safetensors"),
    "detect golden.hark none.wav --smoothing 5000": (2, "5000 is not in the range 1<=x<=4096"),
    "quantize model.safetensors --sound empty --out a.safetensors": (1, "empty: no recordings found"),
    "quantize rows.safetensors --sound sound --out a.safetensors": (1, "the model is quantised already"),
    "cost none.hark": (1, "none.hark: No such file or directory"),
}


@pytest.mark.parametrize("command", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    hark_: Hark, model: Path, tiny_source: Source, command: str
) -> None:
    Path("golden.hark").write_bytes(GOLDEN.read_bytes())
    Path("rows.safetensors").write_bytes(to_bytes(quantize(load(model))))
    Path("empty").mkdir()
    Path("sound").symlink_to(tiny_source.root)
    before = sorted(Path.cwd().iterdir())
    done = hark_(*command.split())
    code, said = REFUSED[command]
    assert (done.code, done.out) == (code, "")
    assert said in done.err.splitlines()[-1]
    assert len(done.err.splitlines()) == (4 if done.err.startswith("Usage") else 1)  # those of click's own
    assert sorted(Path.cwd().iterdir()) == before


def test_cost_tells_what_stage_2_takes_on_a_device(hark_: Hark) -> None:
    files = json.loads(hark_("cost", "stage-2", "--json").out)["files"]
    integers = files["integers"]
    assert integers["file_bytes"] <= 3_700
    assert integers["state"] + integers["scratch"] + integers["stack"] <= 6 * 1024
    for taken in files.values():
        assert taken["ram"] == sum(taken[part] for part in ("state", "scratch", "opened_model", "stack"))
    assert integers["state"] < files["float32"]["state"]
    lines = {line[:20].strip(): line[20:] for line in hark_("cost", "stage-2").out.splitlines()}
    for name, value in ((".hark file", "file_bytes"), ("RAM", "ram"), ("stack", "stack")):
        assert lines[name].split()[:2] == [f"{files[form][value]:,}" for form in ("float32", "integers")]


def test_the_file_in_the_cost_is_the_file_that_is_packed(hark_: Hark, model: Path, int8: Path) -> None:
    for source, forms in ((model, ["float32", "integers"]), (int8, ["integers"])):
        files = json.loads(hark_("cost", source, "--json").out)["files"]
        assert list(files) == forms
        assert files[forms[0]]["file_bytes"] == len(packing.to_bytes(pack(load(source))))


def test_the_cost_of_what_cannot_be_packed_says_so(hark_: Hark, model: Path) -> None:
    Path("rows.safetensors").write_bytes(to_bytes(quantize(load(model))))
    assert hark_("cost", "rows.safetensors").out.endswith("\nno .hark file: only the weights are quantised\n")


def test_a_packed_files_cost_is_that_of_its_model(hark_: Hark, int8: Path) -> None:
    assert hark_("pack", int8, "--out", "int8.hark").code == 0
    packed, trained = (json.loads(hark_("cost", name, "--json").out) for name in ("int8.hark", int8))
    same = (
        "macs_per_clip_thop",
        "macs_per_clip",
        "macs_per_second_thop",
        "macs_per_second",
        "latency_ms",
        "files",
    )
    assert {name: packed[name] for name in same} == {name: trained[name] for name in same}


def test_packed_files_are_costed_packed_and_exported_without_torch(tmp_path: Path) -> None:
    for call in (
        ["cost", str(GOLDEN)],
        ["pack", str(GOLDEN), "--threshold", "0.5", "--out", str(tmp_path / "a.hark")],
        ["export", str(GOLDEN), "--to", "c", "--out", str(tmp_path / "c")],
    ):
        code = f"import sys; sys.modules['torch'] = None; sys.argv = {['hark', *call]!r}; "
        code += "from hark.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
