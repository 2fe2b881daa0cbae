"""The models that come with hark: found by name by every command, each small, whole and with its card."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hark
from command_line import Hark
from hark.errors import ModelFileError
from hark.models import shelf
from hark.models.page import page
from hark.models.shipped import Shipped
from hark.proof.packed_verification import verify_packed
from hark.sound import audio
from released_models import CARD, GOLDEN, put

LARGEST_BYTES = 4_000


@pytest.fixture
def filled(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shelf with two models, and none else."""
    folder = tmp_path_factory.mktemp("shelf")
    put(folder, "he-tiny", licence="CC0-1.0")
    put(folder, "ha-tiny")
    monkeypatch.setattr(shelf, "SHELF", folder)
    return folder


@pytest.mark.parametrize("path", shelf.shelf().values(), ids=lambda path: path.stem)
def test_every_model_that_comes_with_hark_is_small_proved_and_has_its_card(path: Path) -> None:
    model = Shipped.open(path)
    assert model.file_bytes < LARGEST_BYTES
    assert model.point is not None
    assert {"CC BY 4.0", "Apache-2.0"} >= {credit.licence for credit in model.card.data.credits}
    assert f"“{model.card.keyword}”" in page(model)
    verify_packed(path.read_bytes(), seconds=60).require()


def test_models_are_listed_by_name(filled: Path) -> None:
    assert list(shelf.shelf()) == ["ha-tiny", "he-tiny"]


def test_a_name_is_a_model_and_a_path_is_a_path(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "he-tiny").mkdir()
    assert shelf.find("he-tiny") == filled / "he-tiny.hark"
    for path in ("./he-tiny", "he-tiny.hark", "runs/he", str(tmp_path / "he-tiny")):
        assert shelf.find(path) == Path(path)


def test_a_word_that_names_nothing_is_answered_with_the_shelf(filled: Path) -> None:
    with pytest.raises(ModelFileError, match=r"he-tny: no file or run, and not .* \(ha-tiny, he-tiny\)"):
        shelf.find("he-tny")


def test_an_empty_shelf_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hark_: Hark) -> None:
    monkeypatch.setattr(shelf, "SHELF", tmp_path)
    assert hark_("models").out.split()[:2] == ["name", "spots"]
    outcome = hark_("verify", "he")
    assert outcome.code == 1
    assert "(none yet)" in outcome.err


def test_the_list_has_a_line_for_each_with_cost_and_quality(filled: Path, hark_: Hark) -> None:
    heading, *lines = hark_("models").out.splitlines()
    assert heading.split("  ")[0] == "name"
    assert [line.split()[0] for line in lines] == ["ha-tiny", "he-tiny"]
    for cell in (f"{GOLDEN.stat().st_size:,}", "hé", "5.17 ± 2.59 (0.00–11.59)"):
        assert all(cell in line for line in lines)
    assert [line.split()[-1] for line in lines] == ["Apache-2.0", "CC0-1.0"]
    assert [model["name"] for model in json.loads(hark_("models", "--json").out)] == ["ha-tiny", "he-tiny"]


def test_a_card_is_printed_as_markdown_with_every_figure_of_it(filled: Path, hark_: Hark) -> None:
    told = hark_("models", "he-tiny").out
    assert told.startswith(
        "# he-tiny\n\nSpots “hé” in a stream of sound. 159 bytes, under CC0-1.0.\n\n## Quality\n"
    )
    for line in (
        "**5.17 ± 2.59** × 10⁻⁵, mean ± standard deviation over 3 folds",
        "0.00100, 0.00200, 0.00300",
        "6 models of the same recipe",
        "split by speaker",
        "threshold 0.75 of the posterior averaged over 2 steps, 1.5 s refractory",
        "at most 1 per hour of life",
        "- Alarms in speech without the keyword: 0 in 0.25 h.",
        "- In all no alarm in 0.3 h proves only < 10.0 per hour.",
        "stream of 2.50 h, by the models of the folds: 75 of 1,500 missed, 1 alarm among the others",
        "7,000 clips of 1 s, 1,500 of them the keyword; 1,600 speakers; 800 clips cut out of sentences.",
        "- Some Words: CC BY 4.0, Somebody.",
        "prove only < 10.0 per hour",
        "Recipe tiny, setting “student”: base: train, seed 0; student: distill, seed 3.",
        "commit abc123, 2026-01-31",
        CARD.sha256,
    ):
        assert line in told
    assert json.loads(hark_("models", filled / "he-tiny.hark", "--json").out)["quality"]["runs"] == 6


def test_of_files_without_speakers_the_card_says_so(tmp_path: Path, hark_: Hark) -> None:
    path = put(tmp_path, "he", data=replace(CARD.data, names_speakers=False))
    told = hark_("models", path).out
    assert "split by file" in told
    assert "files were split at random and a voice may be on both sides" in told


def test_nothing_in_a_card_commands_the_terminal(tmp_path: Path, hark_: Hark) -> None:
    told = hark_("models", put(tmp_path, "he", licence="\x1b[31mred")).out
    assert "under [31mred." in told
    assert "\x1b" not in told


def test_commands_take_a_name_for_a_path(filled: Path, hark_: Hark, tmp_path: Path) -> None:
    audio.write("quiet.wav", np.full(16_000, 0.01, np.float32))
    path = filled / "he-tiny.hark"
    for call in (
        lambda model: ("detect", "--model", model, "quiet.wav"),
        lambda model: ("detect", model, "quiet.wav"),
        lambda model: ("cost", model, "--json"),
        lambda model: ("pack", model, "--out", "again.hark", "--threshold", 0.3),
        lambda model: ("verify", model, "--against", model, "--seconds", 10, "--json"),
    ):
        by_name, by_path = (hark_(*call(model)) for model in ("he-tiny", path))
        assert by_name == by_path
        assert by_name.code == 0, by_name.err
    assert hark_("export", "he-tiny", "--to", "c", "--out", "c").code == 0
    assert "hé" in Path("c/README.md").read_text()


def test_python_takes_a_name_too(filled: Path) -> None:
    assert hark.Model("he-tiny").file == GOLDEN.read_bytes()
    with pytest.raises(ModelFileError, match="not a model that comes with hark"):
        hark.Model("he-tny")


def test_detect_without_a_model_is_a_wrong_call(hark_: Hark) -> None:
    assert "expected its name or path before the FILES" in hark_("detect").err
    assert "expected either FILES or --truth" in hark_("detect", "--model", GOLDEN).err


def test_models_are_listed_and_heard_with_without_torch(tmp_path: Path) -> None:
    path = put(tmp_path, "he")
    audio.write(tmp_path / "quiet.wav", np.full(16_000, 0.01, np.float32))
    for call in (["models"], ["models", str(path)], ["detect", str(path), str(tmp_path / "quiet.wav")]):
        ask = (
            "import sys; sys.modules['torch'] = sys.modules['scipy'] = None; from hark.cli import cli; "
            f"cli.main({call!r}, standalone_mode=False)"
        )
        done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
