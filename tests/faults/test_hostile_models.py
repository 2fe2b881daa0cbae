"""F25: whatever a file that is called a model holds, it is refused in one line, and nothing in it is executed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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
from measured_commands import HANG_S, measured

from contract import seeded, small_spotter
from hark.cli import COMMANDS, cli
from hark.network.crnn import PUBLISHED, Crnn, CrnnConfig
from hark.network.reference import ReferenceCrnn
from hark.network.spotter import MOST_VALUES_PER_SECOND, Spotter, SpotterConfig
from hark.sound import audio
from hark.storage.importing import import_checkpoint
from hark.storage.model_files import to_bytes

MOST_MIB = 256

# Every command that takes a model's file, and how it is given one; `{corpus}`, `{sound}`, `{out}` are filled in.
ENTRIES = {
    "cost": "cost {model}",
    "quantize": "quantize {model} --out {out}",
    "evaluate": "evaluate {model} --data {corpus} --keyword happy",
    "check-stream": "check-stream {model} --data {corpus} --keyword happy",
    "detect": "detect {model} {sound}",
    "import": "import {model} --keyword happy --out {out}",
}

Line = Callable[[Path], list[str]]
Record = Callable[[str, object], None]


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
    archives: int, lines: dict[str, Line], tmp_path: Path, record_property: Record
) -> None:
    """Of the archives, `import` is given only so many: each starts a helper."""
    place = Place(tmp_path / "hostile", tmp_path / "canary")
    place.folder.mkdir()
    files = [make(place) for make in HOSTILE.values()]
    good = place.file("good.safetensors", to_bytes(small_spotter()))
    weights = place.file("good.pth", archive(reference().state_dict()))
    unread = [file for file in files if is_archive(file)][archives:]
    warm = [line(weights if name == "import" else good) for name, line in lines.items()]
    tried = [
        line(file) for name, line in lines.items() for file in files if not (name == "import" and file in unread)
    ]
    told = measured(warm + tried)
    for arguments, (code, out, err, *_) in zip(tried, told[len(warm) :], strict=True):
        assert code in (1, 2), f"{arguments}: {code} {err}"
        assert out == ""
        assert err.startswith("hark: "), f"{arguments}: {err}"
        assert err.count("\n") == 1, err
    assert not place.canary.exists()
    before, after = told[len(warm) - 1], told[-1]
    more = max(after.peak_mib - before.peak_mib, after.helpers_peak_mib - before.helpers_peak_mib)
    assert more <= MOST_MIB
    record_property(
        "outcome",
        f"{len(files)} files given to {len(lines)} commands: {len(tried)} of {len(tried)} refused in one line, "
        f"nothing in them executed, at most {more:.0f} MiB more memory than a good model takes",
    )


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
