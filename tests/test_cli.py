"""The command line: commands do what their names say, results on stdout, errors in one line with an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import click
import numpy as np
import pytest
from click.testing import CliRunner

import hark.cli
from command_line import Hark
from contract import seeded
from hark import __version__
from hark.cli import COMMANDS, cli
from hark.judging.detection import OperatingPoint
from hark.judging.listening import detections_in, posterior, stream_scores
from hark.learning.dataset import Source, Task
from hark.learning.devices import Machine
from hark.network.crnn import CrnnConfig
from hark.network.spotter import Spotter, SpotterConfig
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.record.runs import Run
from hark.record.supervision import ON_ANOTHER_DEVICE
from hark.runtime import Model
from hark.shipping.model_packing import pack
from hark.shrinking.quantization import is_quantized
from hark.sound import audio
from hark.storage.model_files import load


@pytest.fixture
def corpus(tiny_source: Source) -> list[object]:
    """The options that name the tiny task."""
    return ["--data", tiny_source.root, "--keyword", "beep", "--folds", 2, "--speech", tiny_source.speech]


@pytest.fixture
def mini_recipe_file(tmp_path: Path) -> Path:
    """A recipe of one training."""
    path = tmp_path / "one.toml"
    path.write_text('[stages.small]\nkind = "train"\nnetwork = "stage-2"\n')
    return path


def _leaves(command: click.Command, name: str) -> list[str]:
    if not isinstance(command, click.Group) or not command.commands:
        return [name]
    return [leaf for key, inner in command.commands.items() for leaf in _leaves(inner, f"{name} {key}")]


def test_the_list_names_every_command_with_one_line(hark_: Hark) -> None:
    code, out, _ = hark_("--help")
    assert code == 0
    for name, (_, line) in COMMANDS.items():
        assert f"{name} " in out
        assert line in " ".join(out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command
    assert command.name == name
    for leaf in _leaves(command, name):
        shown = CliRunner().invoke(cli, [*leaf.split(), "--help"])
        assert shown.exit_code == 0, shown.output
        assert shown.output.startswith(f"Usage: cli {leaf} ")
        assert f"Example:\n    $ hark {leaf}" in shown.output


def test_the_version_is_the_packages(hark_: Hark) -> None:
    assert hark_("--version") == (0, f"hark, version {__version__}\n", "")


def test_what_a_notebook_draws_with_does_not_matter(mini_runs: Path, tmp_path: Path) -> None:
    """Its kernel tells every command that it starts of a way to draw that only its own environment has."""
    told = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    command = [sys.executable, "-m", "hark", "report", str(mini_runs), "--out", str(tmp_path / "page.html")]
    done = subprocess.run(command, env=told, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr


MISSING = ["--data", "none", "--keyword", "x"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", *MISSING], 2, "expected either a RECIPE or --network"),
        (["train", "demo", "--network", "base", *MISSING], 2, "expected either a RECIPE or --network"),
        (["train", "none.toml", *MISSING], 2, "none.toml: cannot be read as a recipe"),
        (["train", "demo", *MISSING, "--set", "trainig.epochs=3"], 2, "did you mean training?"),
        (["train", "--network", "base", "--set", "trainig.epochs=1", *MISSING], 2, "did you mean"),
        (["train", "--network", "base", *MISSING, "--set", "training.epochs=0"], 2, "epochs is 0, expected"),
        (["distill", "--network", "base", "--out", "a", *MISSING], 2, "no teachers, expected at least one"),
        (["train", "demo", *MISSING], 1, "none"),
        (["evaluate", "none", *MISSING], 1, "none"),
        (["cost", "none.safetensors"], 1, "none.safetensors: cannot be read as a model"),
        (["cost", "."], 1, "holds no model.safetensors; expected a finished run or a model file"),
        (["detect", "none.safetensors", "a.wav"], 1, "none.safetensors: cannot be read as a model"),
        (["import", "none.pth", "--keyword", "x", "--out", "a"], 1, "none.pth: cannot be read (No such file"),
        (["quantize", "none", "--out", "a.safetensors"], 1, "none: no file or run, and not a model that comes"),
        (["quantize", "./none", "--out", "a.safetensors"], 1, "none: cannot be read as a model"),
    ],
)
def test_an_error_of_ours_is_one_line_on_stderr_with_its_exit_code(
    hark_: Hark, arguments: list[str], code: int, said: str
) -> None:
    outcome = hark_(*arguments)
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("hark: ")
    assert len(outcome.err.splitlines()) == 1
    assert said in outcome.err


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["cost"], ["train", "--data"], ["quantize", "a", "--bits", "9"]]
)
def test_a_wrong_call_is_answered_with_the_usage(hark_: Hark, arguments: list[str]) -> None:
    outcome = hark_(*arguments)
    assert outcome.code == 2
    assert "Error: " in outcome.err
    assert "pytest" not in outcome.err, "it is called hark, however it was started"
    assert outcome.out == ""


def test_a_gpu_that_is_not_there_is_exit_code_7(
    hark_: Hark, corpus: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = hark_("train", *corpus, "--network", "stage-2", "--out", "a", "--device", "cuda")
    assert outcome.code == 7
    assert outcome.err.splitlines()[-1] == (
        "hark: --device cuda: found only the CPU; use --device auto or cpu, or wait: --wait-device MINUTES"
    )


class Reached(BaseException):
    """Instead of a training."""


@pytest.mark.parametrize("recipe", [True, False], ids=["recipe", "network"])
def test_device_and_workers_reach_the_training_when_the_device_has_come(
    hark_: Hark, corpus: list[object], mini_recipe_file: Path, monkeypatch: pytest.MonkeyPatch, recipe: bool
) -> None:
    """A GPU that needs three looks to come."""
    looks, machines = iter([False, False, True]), []

    def train(*_: object, machine: Machine, **__: object) -> NoReturn:
        machines.append(machine)
        raise Reached

    monkeypatch.setattr("hark.learning.devices.can_compute", lambda device: next(looks))
    monkeypatch.setattr("hark.learning.devices.PROBE_EVERY_S", 0.01)
    monkeypatch.setattr("torch.cuda.is_available", lambda: not list(looks))
    monkeypatch.setattr("hark.learning.devices.cuda_is_ruled_out", lambda: False)
    monkeypatch.setattr("hark.recipes.stages.train", train)
    what = [mini_recipe_file] if recipe else ["--network", "stage-2"]
    with pytest.raises(Reached):
        hark_("train", *what, *corpus, "--out", "a", "--device", "cuda", "--wait-device", 1, "--workers", 3)
    assert machines == [Machine(device="cuda", workers=3)]


def test_a_supervised_command_is_a_call_of_hark_and_its_runs_are_watched(
    hark_: Hark, corpus: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def run(command: list[str], **options: object) -> int:
        calls.append((command, options))
        return 75

    monkeypatch.setattr("hark.cli.supervise.run", run)
    inner = ["train", "--network", "base", *map(str, corpus), "--out", "there"]
    assert hark_("supervise", "--retries", 3, "--allow-cpu", *inner).code == 75
    assert hark_("supervise", *inner).code == 75
    assert [command[1:] for command, _ in calls] == [["-P", "-m", "hark", *inner]] * 2
    assert calls[0][1] == {"folder": Path("there"), "retries": 3, "after_loss": ON_ANOTHER_DEVICE}
    assert calls[1][1] == {"folder": Path("there"), "retries": 5, "after_loss": ()}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cost", "base"], "'cost': expected one of train, distill"),
        (["--retry", "3", "train"], "'--retry': expected one of train, distill"),
        (["train", "--netwrk", "base"], "No such option"),
        (["--allow-cpu", "demo"], "--allow-cpu: demo has no --device; leave it out"),
    ],
)
def test_what_cannot_be_supervised_is_refused_at_once(hark_: Hark, arguments: list[str], said: str) -> None:
    outcome = hark_("supervise", *arguments)
    assert outcome.code == 2
    assert said in outcome.err


def test_an_interrupt_is_told_in_a_word(hark_: Hark, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hark.cli.cli, "main", interrupted)
    outcome = hark_("demo")
    assert outcome.code == 130
    assert outcome.err == "hark: interrupted\n"


@pytest.mark.parametrize(
    ("network", "parameters", "macs"),
    [("base", 70_443, 933_808), ("stage-1", 34_731, 538_024), ("stage-2", 3_117, 92_600)],
)
def test_costs_of_the_published_networks_are_the_reports(
    hark_: Hark, network: str, parameters: int, macs: int
) -> None:
    told = json.loads(hark_("cost", network, "--json").out)
    assert (told["parameters"], told["macs_per_clip_thop"]) == (parameters, macs)
    table = hark_("cost", network).out
    assert f"{macs:,} MACs (thop 0.0.31 convention)" in table
    assert "front end" in table


def test_quantize_writes_a_smaller_model(hark_: Hark, mini_runs: Path, tmp_path: Path) -> None:
    outcome = hark_("quantize", mini_runs / "base", "--bits", 4, "--out", "int4.safetensors")
    assert outcome.code == 0
    source = mini_runs / "base" / "model.safetensors"
    before, after = source.stat().st_size, Path("int4.safetensors").stat().st_size
    assert outcome.out.startswith(f"int4.safetensors: {after:,} bytes, {before:,} before (")
    assert after < before
    assert is_quantized(load(Path("int4.safetensors")))
    again = hark_("quantize", "int4.safetensors", "--out", "again.safetensors")
    assert again.code == 1
    assert "the model is quantised already" in again.err
    assert not Path("again.safetensors").exists()


def test_detect_prints_time_and_score_of_each_detection(
    hark_: Hark, mini_runs: Path, tiny_task: Task, tmp_path: Path
) -> None:
    model = Model(mini_runs / "base" / "model.hark")
    sound = tiny_task.testing.waveforms(slice(0, 20)).flatten().numpy()
    audio.write("evening.wav", sound)
    (scores,) = stream_scores(model, [sound])
    threshold = float(np.median(posterior(scores)))
    point = OperatingPoint(threshold, smoothing_steps=2, refractory_s=0.5)
    expected = list(detections_in(model, Path("evening.wav"), point))
    assert len(expected) > 2
    options = ["--threshold", threshold, "--smoothing", 2, "--refractory", 0.5]
    printed = hark_("detect", mini_runs / "base", "evening.wav", *options)
    assert printed == (0, "".join(f"evening.wav  {d.time_s:.3f} s  {d.score:.3f}\n" for d in expected), "")
    told = json.loads(hark_("detect", mini_runs / "base", "evening.wav", *options, "--json").out)
    assert told == [{"file": "evening.wav", "time_s": d.time_s, "score": d.score} for d in expected]


def test_detect_says_that_it_heard_nothing(hark_: Hark, mini_runs: Path) -> None:
    audio.write("quiet.wav", 0.01 * np.ones(32_000))
    options = ["--threshold", 1.0]
    assert hark_("detect", mini_runs / "base", "quiet.wav", *options) == (0, "", "no detection at threshold 1\n")


def test_detect_counts_against_the_truth(hark_: Hark, mini_runs: Path) -> None:
    audio.write("quiet.wav", 0.01 * np.ones(32_000))
    Path("truth.jsonl").write_text('{"path": "quiet.wav", "label": "beep", "start_s": 0.5, "duration_s": 0.5}')
    point = ["--truth", "truth.jsonl", "--threshold", 1.0]
    assert hark_("detect", mini_runs / "base", *point).out.startswith("1 words, 1 missed; ")
    assert json.loads(hark_("detect", mini_runs / "base", *point, "--json").out)["misses"] == 1
    both = hark_("detect", mini_runs / "base", "quiet.wav", *point)
    assert both.code == 2
    assert "expected either FILES or --truth" in both.err


def test_evaluate_gives_the_numbers_of_the_run(hark_: Hark, mini_runs: Path, corpus: list[object]) -> None:
    told = json.loads(hark_("evaluate", mini_runs / "base", *corpus, "--json").out)
    run = Run.open(mini_runs / "base")
    assert told == {"reset": run.read_json("evaluation.json"), "carried": run.read_json("stream.json")}
    printed = hark_("evaluate", mini_runs / "base", *corpus).out
    assert f"reset per clip   1-AUC {told['reset']['one_minus_auc']:.5f}" in printed
    assert f"{told['carried']['misses_carried']} of 20 words missed" in printed


def test_a_model_at_half_the_rate_is_judged_and_detects_as_any(
    hark_: Hark, tiny_task: Task, corpus: list[object], tmp_path: Path
) -> None:
    """A recording is heard alike at its own rate and at the model's, but for the filter's edges and 16 bits."""
    front_end = LogMelConfig(sample_rate=8_000, hop_length=160, n_fft=256, n_mels=16)
    network = CrnnConfig(n_mels=16, channels=2, kernel=(16, 8), stride=(1, 8), hidden=(6,), frames_per_clip=50)
    config = SpotterConfig(keyword="beep", features=front_end, network=network)
    (tmp_path / "slow.hark").write_bytes(packing.to_bytes(pack(seeded(lambda: Spotter(config)))))
    told = json.loads(hark_("evaluate", "slow.hark", *corpus, "--json").out)
    assert told["reset"]["clips"] == 50
    assert hark_("check-stream", "slow.hark", *corpus).out.count("largest difference") == 3
    sound = tiny_task.testing.waveforms(slice(0, 20)).flatten().numpy()
    audio.write("fast.wav", sound)
    audio.write("slow.wav", audio.read("fast.wav", sample_rate=8_000), sample_rate=8_000)
    (scores,) = stream_scores(Model(tmp_path / "slow.hark"), [audio.read("slow.wav", sample_rate=8_000)])
    threshold = float(np.quantile(posterior(scores), 0.9))
    fast, slow = (
        json.loads(hark_("detect", "slow.hark", name, "--threshold", threshold, "--json").out)
        for name in ("fast.wav", "slow.wav")
    )
    assert len(fast) > 2
    assert [one["time_s"] for one in fast] == [one["time_s"] for one in slow]
    assert [one["score"] for one in fast] == pytest.approx([one["score"] for one in slow], abs=1e-3)


def test_check_stream_prints_the_difference_for_each_chunk(
    hark_: Hark, mini_runs: Path, corpus: list[object]
) -> None:
    arguments = ["check-stream", mini_runs / "int8", *corpus, "--step", 7, "--step", 20]
    lines = hark_(*arguments, "--plot", "stream.svg").out.splitlines()
    assert lines[0].endswith("; the keyword from 4 s to 5 s")
    assert [line.split(": largest difference to offline")[0] for line in lines[1:3]] == [
        "chunks of    7 frames",
        "chunks of   20 frames",
    ]
    assert lines[3].startswith("highest posterior within the keyword")
    assert Path("stream.svg").read_text().lstrip().startswith(("<?xml", "<svg"))
    assert [row["chunk_frames"] for row in json.loads(hark_(*arguments, "--json").out)["chunks"]] == [7, 20]


def test_stages_by_command_build_on_each_other(hark_: Hark, corpus: list[object]) -> None:
    short = ["--device", "cpu", "--set", "training.epochs=1"]
    trained = hark_("train", *corpus, "--network", "stage-2", "--out", "runs/small", *short)
    assert trained.code == 0, trained.err
    area = Run.open(Path("runs/small")).read_json("evaluation.json")["one_minus_auc"]
    assert trained.out == f"runs/small: 1-AUC {area:.5f} on fold 0's test part\n"
    options = ["--teacher", "runs/small", "--out", "runs/pruned", *short, "--set", "pruning.gru=0.5"]
    pruned = hark_("prune", "runs/small", *corpus, *options)
    assert pruned.code == 0, pruned.err
    assert load(Path("runs/pruned/model.safetensors")).config.network.hidden == (8,)
    assert Run.open(Path("runs/pruned")).about["parents"] == ["small", "small"]


def test_a_recipe_runs_by_command_and_its_report_is_written(
    hark_: Hark, mini_runs: Path, corpus: list[object]
) -> None:
    Path("mine.toml").write_text(
        f'[stages.int4]\nkind = "quantize"\nbits = 4\nmodel = "{mini_runs / "base"}"\nsetting = "int4"\n'
    )
    done = hark_("train", "mine.toml", *corpus)
    assert done.code == 0, done.err
    assert done.out == "runs/mine/fold-0: 1 stages done\n"
    reported = hark_("reproduce", "--recipe", "mine.toml", *corpus, "--only", 0)
    assert reported.code == 0, reported.err
    assert reported.out == "runs/report.html: open it in a browser\n"
    assert "int4" in Path("runs/report.html").read_text()
