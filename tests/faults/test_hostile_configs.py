"""F27: a poisoned recipe, override, run or manifest is refused in one line, or taken as the text that it is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from measured_commands import measured

MOST_MIB = 256
SPARSE_BYTES = 2 << 30
SECRET = "HARK_TEST_SECRET"

Record = Callable[[str, object], None]


class Poisoned(NamedTuple):
    """A command line that is given something poisoned, and what it is answered."""

    arguments: list[object]
    said: str


def recipe(text: str) -> str:
    """A recipe of one stage, and more lines in it."""
    return f'[stages.base]\nkind = "train"\nnetwork = "base"\n{text}\n'


# What is wrong with a recipe, and what is said against it.
RECIPES: dict[str, tuple[bytes | str, str]] = {
    "an unknown key": (recipe("netwrok = 1"), "netwrok, did you mean stages.base.network?"),
    "a key that names code": (recipe('_target_ = "os.system"'), "unknown key stages.base._target_"),
    "a wrong type": (recipe('training = {epochs = "7"}'), "training.epochs is '7', expected a whole number"),
    "a truth for a number": (recipe("training = {epochs = true}"), "training.epochs is True, expected a whole"),
    "a date for a name": (recipe("setting = 2021-01-02"), "setting is datetime.date(2021, 1, 2), expected text"),
    "nan": (recipe("training = {learning_rate = nan}"), "learning_rate is nan, expected a number"),
    "infinity": (recipe("training = {learning_rate = 1e999}"), "learning_rate is inf, expected a number between"),
    "a huge number": (recipe(f"training = {{epochs = 0x{'f' * 9000}}}"), "epochs is a huge int, expected one"),
    "a network as a word": (recipe("").replace('"base"', '"bass"'), "network is 'bass', expected base or stage-1"),
    "a network of huge layers": (recipe("").replace('"base"', "{hidden = [99999]}"), "hidden is (99999,)"),
    "no path but text": (recipe(f"setting = 3 # ${{{SECRET}}}"), "setting is 3, expected text"),
    "a variable for a network": (recipe("").replace('"base"', f'"${{{SECRET}}}"'), f"network is '${{{SECRET}}}'"),
    "a path out of its folder": ('[stages."../../x"]\nkind = "train"\nnetwork = "base"', "expected a plain"),
    "a key twice": (recipe('kind = "train"'), "cannot be read as a recipe"),
    "nested tables": ("a = " + "{a = " * 50_000, "cannot be read as a recipe"),
    "a deep key": ("a." * 50_000 + "b = 1", "more than 64 dots in a line"),
    "a NUL": (recipe('setting = "a\0b"'), "cannot be read as a recipe"),
    "an escaped NUL": (recipe(r'setting = "a\u0000b"'), r"setting is 'a\x00b', expected text"),
    "half a character": (recipe(r'setting = "\ud800"'), "cannot be read as a recipe"),
    "no UTF-8": (b'[stages.base]\nkind = "\xff"', "cannot be read as a recipe"),
    "a terminal's orders": (recipe(r'"\u001b[2J" = 1'), r"unknown key stages.base.'\x1b[2J'"),
    "a thousand faults": (recipe("\n".join(f"k{n} = 1" for n in range(1000))), "and 990 more"),
    "too many stages": ("\n".join(f"[stages.s{n}]" for n in range(5000)), "5,000 stages, expected at most 1,000"),
    "a long text": (recipe(f'setting = "{"x" * (1 << 18)}"'), "more than 262,144 bytes"),
}

OVERRIDES = {
    "trainig.epochs=3": "unknown key trainig, did you mean training?",
    "training.epochs=nan": "training.epochs is nan, expected a whole number",
    "training.learning_rate=1e999": "learning_rate is inf, expected a number between 0 and 1",
    "training.epochs=" + "[" * 50_000: "training.epochs is '[[[",
    "x." * 30_000 + "y=1": "unknown key x",
    "=": "expected key=value",
    "stages.base.setting=\udcff": r"setting is '\udcff', expected text",
    f"stages.base.network=${{{SECRET}}}": f"network is '${{{SECRET}}}', expected base",
}

ABOUT = {"name": "a", "kind": "train", "setting": "base", "fold": 0, "seed": 0, "parents": []}

# A run's file, its content, and what is said against it.
RUNS: dict[str, tuple[str, bytes, str]] = {
    "no JSON": ("run.json", b"{", "run.json: expected JSON"),
    "a list": ("run.json", b"[1, 2]", "run.json: expected JSON (it is no object)"),
    "no name": ("run.json", b"{}", "no name"),
    "a wrong type": ("run.json", json.dumps(ABOUT | {"fold": "0"}).encode(), "fold is '0', expected a whole"),
    "infinity": ("run.json", json.dumps(ABOUT | {"order": 1}).replace("1", "1e999").encode(), "order is inf"),
    "a key twice": ("run.json", b'{"name": "a", "name": "b"}', "a key comes twice"),
    "nested lists": ("run.json", b'{"name": ' + b"[" * 10**6, "nested too deeply"),
    "half a character": ("run.json", b'{"name": "\\ud800"}', "surrogates not allowed"),
    "a huge number": ("run.json", b'{"name": ' + b"9" * 10**5 + b"}", "run.json: expected JSON"),
    "figures that are words": ("evaluation.json", b'{"one_minus_auc": "x"}', "one_minus_auc is 'x'"),
    "costs of nothing": ("cost.json", b'{"parameters": 0}', "no macs_per_clip_thop"),
    "a list of packages": ("environment.json", b'{"packages": [1]}', "packages is [1], expected a table"),
    "damage without shares": ("pruning_damage.json", b'{"shares": []}', "no row_wise"),
}


@pytest.fixture
def poisoned(tmp_path: Path) -> list[Poisoned]:
    """Every poison there is, in a command that meets it."""
    data = ["--data", tmp_path, "--keyword", "happy"]
    good = tmp_path / "good.toml"
    good.write_text(recipe(""))
    found = []
    for number, (content, said) in enumerate(RECIPES.values()):
        path = tmp_path / f"{number}.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found.append(Poisoned(["train", path, *data], said))
    found += [Poisoned(["train", good, *data, "--set", change], said) for change, said in OVERRIDES.items()]
    for number, (file, content, said) in enumerate(RUNS.values()):
        folder = tmp_path / "runs" / str(number)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(ABOUT))
        (folder / file).write_bytes(content)
        found.append(Poisoned(["report", folder, "--out", tmp_path / "report.html"], said))
    return found + sparse(tmp_path, data)


def sparse(folder: Path, data: list[object]) -> list[Poisoned]:
    """Files of two gigabytes that take no space, wherever a small one is expected."""
    run = folder / "huge-run"
    run.mkdir()
    for path in (folder / "huge.toml", folder / "huge.jsonl", run / "run.json"):
        with path.open("wb") as file:
            file.truncate(SPARSE_BYTES)
    os.mkfifo(folder / "pipe.toml")
    return [
        Poisoned(["train", folder / "huge.toml", *data], "more than 262,144 bytes"),
        Poisoned(["train", folder / "pipe.toml", *data], "not a regular file"),
        Poisoned(["report", run], "more than 4,194,304 bytes"),
        Poisoned(["data", "check", folder / "huge.jsonl"], "a line of 65536 bytes or more"),
    ]


@pytest.mark.fault("F27")
def test_whatever_is_poisoned_is_refused_in_one_line_and_nothing_is_evaluated(
    poisoned: list[Poisoned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    monkeypatch.setenv(SECRET, "leaked")
    empty = tmp_path / "none"
    empty.mkdir()
    # So that what is loaded by then is all there is to load.
    warm = [["train", "demo", "--data", empty, "--keyword", "x"], ["report", empty], ["data", "check", empty]]
    told = measured([*warm, *(case.arguments for case in poisoned)])
    for case, (code, out, err, *_) in zip(poisoned, told[len(warm) :], strict=True):
        assert code in (1, 2), f"{case.said}: {code} {err}"
        assert out == ""
        assert err.startswith("hark: "), err
        assert case.said in err
        assert len(err.splitlines()) == 1
        assert "leaked" not in err
    more = told[-1].peak_mib - told[len(warm) - 1].peak_mib
    assert more <= MOST_MIB
    record_property(
        "outcome",
        f"{len(poisoned)} of {len(poisoned)} poisoned recipes, overrides, runs and manifests refused in one line, "
        f"nothing evaluated, at most {more:.0f} MiB more memory, of files of up to 2 GiB",
    )
