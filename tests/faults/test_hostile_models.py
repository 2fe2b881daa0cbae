"""F25: whatever a file that is called a model holds, it is refused in one line, and nothing in it is executed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest
import torch
from hostile_models import (
    HOSTILE,
    Place,
    archive,
    metadata_of_a_distributed_checkpoint,
    pickle_named_pt,
    torch_archive_named_pt,
)
from hostile_weights import with_header
from measured_commands import HANG_S, measured

import hark
from contract import seeded, small_spotter
from hark.cli import COMMANDS, cli
from hark.errors import HarkError, RunError
from hark.learning.trainee import AVERAGE, MODEL, MOMENTS, Trainee
from hark.network.crnn import PUBLISHED, Crnn, CrnnConfig
from hark.network.reference import ReferenceCrnn
from hark.network.spotter import MOST_VALUES_PER_SECOND, Spotter, SpotterConfig
from hark.network.weights import LARGEST_HEADER_BYTES
from hark.record.runs import Run
from hark.sound import audio
from hark.storage.importing import import_checkpoint
from hark.storage.model_files import load, to_bytes
from hark.storage.warm_start import with_weights

MOST_MIB, MOST_S = 256, 2.0

# Every command that takes a model's file, and how it is given one; `{corpus}`, `{sound}`, `{out}` are filled in.
ENTRIES = {
    "cost": "cost {model}",
    "quantize": "quantize {model} --out {out}",
    "evaluate": "evaluate {model} --data {corpus} --keyword happy",
    "check-stream": "check-stream {model} --data {corpus} --keyword happy",
    "detect": "detect {model} {sound}",
    "pack": "pack {model} --out {out}",
    "export": "export {model} --to onnx --out {out}",
    "verify": "verify {model} --seconds 60",
    "import": "import {model} --keyword happy --out {out}",
}


class Made(NamedTuple):
    """The hostile files, and what they would make if they could."""

    files: list[Path]
    canary: Path


Line = Callable[[Path], list[str]]
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Every file of `HOSTILE`, in a folder with nothing else."""
    top = tmp_path_factory.mktemp("hostile")
    place = Place(top / "files", top / "canary")
    place.folder.mkdir()
    return Made([make(place) for make in HOSTILE.values()], place.canary)


@pytest.fixture
def lines(tmp_path: Path) -> dict[str, Line]:
    """The command line of each entry for a model."""
    audio.write(tmp_path / "sound.wav", np.zeros(12 * audio.SAMPLE_RATE, np.float32))
    places = {"corpus": tmp_path, "sound": tmp_path / "sound.wav", "out": tmp_path / "out"}

    def line(form: str) -> Line:
        return lambda model: [part.format(model=model, **places) for part in form.split()]

    return {name: line(form) for name, form in ENTRIES.items()}


def reference() -> ReferenceCrnn:
    """The smallest of the reference's networks."""
    return seeded(lambda: ReferenceCrnn(Crnn(PUBLISHED["stage-2"]))).eval()


def is_archive(file: Path) -> bool:
    """Whether `hark import` starts a helper for it, which takes seconds to load torch."""
    return file.is_file() and file.read_bytes()[:2] in (b"PK", b"\x80\2")


def test_every_command_that_takes_a_model_is_among_the_entries() -> None:
    commands = {name: cli.get_command(click.Context(cli), name) for name in COMMANDS}
    takes = {
        name
        for name, command in commands.items()
        if command and {"model", "checkpoint"} & {parameter.name for parameter in command.params}
    }
    assert takes - {"prune"} == ENTRIES.keys(), "prune takes a run, whose model is loaded by the same function"


def test_a_careless_reader_would_sing(tmp_path: Path) -> None:
    """So that the canary's silence means something."""
    place = Place(tmp_path, tmp_path / "canary")
    read = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    for path in (pickle_named_pt(place), metadata_of_a_distributed_checkpoint(place)):
        subprocess.run([sys.executable, "-c", read, str(path)], check=False, timeout=HANG_S)
        assert place.canary.exists()
        place.canary.unlink()
    torch.load(torch_archive_named_pt(place), weights_only=False)
    assert place.canary.exists()


@pytest.mark.fault("F25")
@pytest.mark.parametrize("archives", [2, pytest.param(len(HOSTILE), marks=pytest.mark.chaos)])
def test_every_command_refuses_every_hostile_model_in_one_line(
    archives: int, hostile: Made, lines: dict[str, Line], tmp_path: Path, record_property: Record
) -> None:
    """Of the archives, `import` is given only so many: each starts a helper, which loads torch first."""
    files = hostile.files
    good, weights = tmp_path / "good.safetensors", tmp_path / "good.pth"
    good.write_bytes(to_bytes(small_spotter()))
    weights.write_bytes(archive(reference().state_dict()))
    unread = [file for file in files if is_archive(file)][archives:]
    goods = {name: weights if name == "import" else good for name in lines}
    # Once to load what it takes, and the helper's once more to know what that takes.
    warm = [line(goods[name]) for name, line in lines.items()] + [lines["import"](weights)]
    tried = [
        line(file) for name, line in lines.items() for file in files if not (name == "import" and file in unread)
    ]
    told = measured(warm + tried)
    helper_s = told[len(warm) - 1].processor_s
    longest_s = 0.0
    for arguments, (code, out, err, _, _, taken_s) in zip(tried, told[len(warm) :], strict=True):
        assert code in (1, 2), f"{arguments}: {code} {err}"
        assert out == ""
        assert err.startswith("hark: "), f"{arguments}: {err}"
        assert err.count("\n") == 1, err
        helped = arguments[0] == "import" and is_archive(Path(arguments[1]))
        longest_s = max(longest_s, taken_s - helper_s * helped)
    assert not hostile.canary.exists()
    before, after = told[len(warm) - 1], told[-1]
    more = max(after.peak_mib - before.peak_mib, after.helpers_peak_mib - before.helpers_peak_mib)
    assert more <= MOST_MIB
    assert longest_s <= MOST_S
    record_property(
        "outcome",
        f"{len(files)} files given to {len(lines)} commands: {len(tried)} of {len(tried)} refused in one line, "
        f"nothing in them executed, at most {more:.0f} MiB more memory than a good model takes, and "
        f"{longest_s:.1f} s of processor time",
    )


@pytest.mark.fault("F25")
def test_whatever_reads_models_in_python_refuses_them(hostile: Made, record_property: Record) -> None:
    model = small_spotter()
    readers: dict[str, Callable[[Path], object]] = {
        "hark.Model": hark.Model,
        "load": load,
        "a warm start": lambda path: with_weights(model, path),
    }
    refused = 0
    for file in hostile.files:
        for read in readers.values():
            with pytest.raises(HarkError) as caught:
                read(file)
            assert str(file) in str(caught.value)
            refused += 1
    assert not hostile.canary.exists()
    tried = len(hostile.files) * len(readers)
    record_property(
        "outcome", f"{', '.join(readers)}: {refused} of {tried} files refused, nothing in them executed"
    )


@pytest.fixture
def trainee(tiny_spotter: Callable[[], Spotter]) -> Trainee:
    """A training of another network than that of the hostile files: it has not begun."""
    model = tiny_spotter()
    return Trainee(model, torch.optim.Adam(model.parameters()), averaging=0.9)


@pytest.mark.fault("F25")
def test_a_checkpoint_that_verifies_and_holds_such_a_file_is_refused(
    hostile: Made, trainee: Trainee, new_run: Callable[[str], Run], record_property: Record
) -> None:
    """Its manifest vouches for the bytes, not for what they are: going on from it, and beginning with it."""
    contents = [file.read_bytes() for file in hostile.files if file.is_file() and not file.is_symlink()]
    run, refused = new_run("foreign"), 0
    trainee.save(run)
    good = run.checkpoints.latest()
    assert good is not None
    for step, (name, content) in enumerate(product((MODEL, AVERAGE, MOMENTS), contents), start=1):
        folder = run.checkpoints.save(step, {**good.files, name: content}, info=good.info)
        with pytest.raises(RunError, match=f"its checkpoint of step {step} does not fit the model"):
            trainee.restore(run)
        if name == AVERAGE:
            with pytest.raises(HarkError, match=folder.name):
                with_weights(trainee.model, folder)
        refused += 1
    assert not hostile.canary.exists()
    record_property(
        "outcome", f"{refused} of {3 * len(contents)} checkpoints that verify and hold such a file refused"
    )


@pytest.mark.fault("F25")
def test_the_weights_of_a_checkpoint_are_not_parsed_where_their_header_is_huge(
    trainee: Trainee, new_run: Callable[[str], Run]
) -> None:
    huge = with_header(b"{".ljust(LARGEST_HEADER_BYTES) + b"}")
    folder = new_run("huge").checkpoints.save(1, {AVERAGE: huge}, info={})
    with pytest.raises(RunError, match="its header would be 1,048,577 bytes long"):
        with_weights(trainee.model, folder)


@pytest.mark.fault("F25")
def test_of_a_checkpoint_that_names_its_instantiator_only_the_weights_come_in(
    tmp_path: Path, record_property: Record
) -> None:
    canary = tmp_path / "canary"
    named = {"_instantiator": "os.system", "_target_": "os.system", "command": f"touch {canary}"}
    content = {"state_dict": reference().state_dict(), "hyper_parameters": named}
    (tmp_path / "model.ckpt").write_bytes(archive(content))
    spotter = import_checkpoint(tmp_path / "model.ckpt", keyword="happy")
    sound = torch.zeros(1, audio.SAMPLE_RATE)
    expected = reference()(spotter.features(sound))
    torch.testing.assert_close(spotter(sound)[..., -1], expected, atol=1e-5, rtol=0)
    assert not canary.exists()
    taken = sum(parameter.numel() for parameter in spotter.network.parameters())
    record_property(
        "outcome", f"of a Lightning checkpoint that names {named['_instantiator']}: {taken:,} weights, no call"
    )


@pytest.mark.fault("F25")
def test_a_small_file_that_asks_for_much_is_heard_in_bounded_memory(
    lines: dict[str, Line], tmp_path: Path, record_property: Record
) -> None:
    """Its settings are just within what a spotter may take."""
    network = CrnnConfig(channels=2, stride=(2, 1), hidden=(16,), attention_window=600)
    config = SpotterConfig(keyword="happy", network=network)
    share = config.values_per_second / MOST_VALUES_PER_SECOND
    assert 0.9 < share < 1
    good, greedy = tmp_path / "good.safetensors", tmp_path / "greedy.safetensors"
    good.write_bytes(to_bytes(small_spotter()))
    greedy.write_bytes(to_bytes(seeded(lambda: Spotter(config))))
    warm, heard = measured([lines["detect"](path) for path in (good, greedy)])
    assert heard.code == 0, heard.err
    more = heard.peak_mib - warm.peak_mib
    assert more <= MOST_MIB
    size = greedy.stat().st_size >> 10
    record_property(
        "outcome",
        f"a file of {size} KiB that asks for {share:.0%} of the most: {more:.0f} MiB more memory",
    )
