"""From a budget to confirmed models on the tiny corpus, with real trainings of an instant."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from command_line import Hark
from hark.exploring import confirming, exploration, workshop
from hark.exploring.budget import Budget, parse_quality
from hark.exploring.confirming import confirm, recipe_of
from hark.exploring.exploration import Exploration, explore
from hark.exploring.front import Found
from hark.exploring.searching import Search
from hark.exploring.space import load_space
from hark.exploring.workshop import Workshop
from hark.learning.dataset import Source
from hark.learning.devices import Machine
from hark.packed import packing
from hark.recipes.recipe import load_recipe
from hark.recipes.side_by_side import Deed, do_all
from hark.record.runs import PACKED_FILE, Run
from hark.showing.exploration_page import Showing

SPACE = """
front_ends = [{ sample_rate = 8000, hop_length = 160, n_fft = 256, n_mels = 20 }]
hidden = { low = 3, high = 8 }
layers = [1]
pruned_share = [0.3]
epochs = [2]
fine_tuning_epochs = [1]
lessons = 1
"""
TEACHERS = """
[training]
epochs = 3
learning_rate = 0.02
averaging = 0.9
validations = 1
batch_size = 16

[stages.base]
kind = "train"
network = { channels = 2, kernel = [5, 20], stride = [4, 16], hidden = [6, 6] }
setting = "base"
"""
BUDGET = Budget(macs=15_000, bytes=1_200)
TRIALS, CONFIRMED = 2, 1


@dataclass(frozen=True)
class Explored:
    """A search that has come to its end."""

    wanted: Exploration
    found: Found
    shown: list[Found]
    out: Path

    @property
    def front(self) -> dict[str, Any]:
        """`front.json`."""
        content: dict[str, Any] = json.loads((self.out / "front.json").read_text())
        return content


@pytest.fixture(scope="module")
def here() -> Iterator[None]:
    """What processes would do is done here, one after another: nothing has to be loaded anew."""

    def do_all_here(deeds: Sequence[Deed], *, meanwhile: Any, **_: Any) -> None:
        for deed in deeds:
            deed.function(*deed.arguments)
            meanwhile()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exploration, "do_all", do_all_here)
        yield


@pytest.fixture(scope="module")
def explored(tiny_source: Source, tmp_path_factory: pytest.TempPathFactory, here: None) -> Explored:
    """A search for `beep`, its best confirmed. Tests only read it, or go on with it."""
    out = tmp_path_factory.mktemp("explored")
    (out / "space.toml").write_text(SPACE)
    (out / "teachers.toml").write_text(TEACHERS)
    shop = Workshop(
        source=replace(tiny_source, cache=out / "cache"),
        out=out,
        teachers=load_recipe(out / "teachers.toml"),
        machine=Machine(device="cpu"),
    )
    search = Search(
        workshop=shop,
        space=load_space(out / "space.toml"),
        budget=BUDGET,
        trials=TRIALS,
        storage=f"sqlite:///{out / 'study.db'}",
    )
    wanted = Exploration(search=search, confirmed=CONFIRMED, quality=parse_quality("<=1000x base"))
    shown: list[Found] = []
    with Showing(out) as showing:

        def show(found: Found) -> None:
            shown.append(found)
            showing(found)

        found = explore(wanted, show=show)
    return Explored(wanted, found, shown, out)


def test_the_search_ends_with_a_front_of_packed_models_within_the_budget(explored: Explored) -> None:
    front = explored.front
    assert front["trials"]["done"] + front["trials"]["stopped"] == TRIALS
    assert front["front"] and all(entry["macs"] <= 15_000 and entry["bytes"] <= 1_200 for entry in front["front"])
    assert front["caution"].startswith("Picked from 2 trials")
    assert all(entry["engine_us_per_second"] > 0 and len(entry["by_fold"]) == 2 for entry in front["front"])
    assert len(front["base"]["by_fold"]) == 2


def test_each_trial_is_runs_that_no_test_part_has_judged(explored: Explored) -> None:
    for tried in explored.found.tried:
        run = Run.open(explored.out / "fold-0" / tried.name)
        assert run.is_finished and run.path("verification.json").exists()
        assert not run.path("evaluation.json").exists()
        assert Run.open(explored.out / "fold-0" / f"{tried.name}-pruned").is_finished


def test_the_chosen_are_made_anew_judged_proved_and_cost_what_was_said_before_training(explored: Explored) -> None:
    (name,) = explored.found.chosen
    price = next(tried.price for tried in explored.found.tried if tried.name == name)
    for fold in (0, 1):
        run = Run.open(explored.out / f"fold-{fold}" / f"{name}-confirmed")
        assert run.is_finished and run.about["setting"] == name
        assert run.about["seed"] == confirming.FRESH_SEED
        assert run.path("evaluation.json").exists() and run.path("verification.json").exists()
        file = run.path(PACKED_FILE).read_bytes()
        assert len(file) == price.bytes
        assert packing.from_bytes(file).operating_point is not None
        assert run.read_json("cost.json")["macs_per_clip_thop"] == price.macs
    (confirmed,) = explored.front["confirmed"]
    assert (confirmed["name"], confirmed["bytes"], confirmed["macs"]) == (name, price.bytes, price.macs)
    assert confirmed["interval"][0] <= confirmed["mean"] <= confirmed["interval"][1]
    assert len(confirmed["less_base"]["values"]) == 2


def test_the_page_tells_of_the_search_the_front_and_the_confirmed(explored: Explored) -> None:
    page = (explored.out / "report.html").read_text()
    (name,) = explored.found.chosen
    assert "The search" in page and "Picked from 2 trials" in page and "made anew with fresh seeds" in page
    assert page.count(name) >= 3


def test_the_recipe_of_a_confirmed_model_repeats_its_runs(explored: Explored) -> None:
    (name,) = explored.found.chosen
    recipe = load_recipe(explored.out / "recipes" / f"{name}.toml")
    assert list(recipe.stages) == ["base", "student-float", "student-pruned", "student"]
    run = Run.open(explored.out / "fold-1" / f"{name}-confirmed")
    written = json.loads(json.dumps(vars_of(recipe.stages["student"])))
    assert {**run.config, "model": None} == {**written, "model": None}
    base = Run.open(explored.out / "fold-1" / "base")
    assert base.config == json.loads(json.dumps(vars_of(recipe.stages["base"])))


def vars_of(stage: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(stage)


def test_lessons_are_gone_at_the_end(explored: Explored) -> None:
    assert not list(explored.out.glob("fold-*/lessons"))


def test_what_is_known_grows_while_it_is_watched(explored: Explored) -> None:
    assert [len(found.chosen) for found in explored.shown] == sorted(len(found.chosen) for found in explored.shown)
    assert explored.shown[-1] == explored.found


def test_the_same_search_again_makes_nothing_new(explored: Explored, here: None) -> None:
    before = begun(explored.out)
    assert explore(explored.wanted, show=lambda found: None) == explored.found
    assert begun(explored.out) == before


def begun(out: Path) -> dict[Path, int]:
    """How often a training has begun in each run."""
    runs = [Run.open(file.parent) for file in sorted(out.glob("fold-*/*/run.json"))]
    return {run.folder: [event["kind"] for event in run.events()].count("began") for run in runs}


def test_another_budget_shares_database_runs_and_front(explored: Explored, here: None) -> None:
    other = replace(explored.wanted, search=replace(explored.wanted.search, budget=Budget(macs=14_999), trials=0))
    found = explore(other, show=lambda found: None)
    assert found.tried == () and found.others == explored.found.tried
    assert found.front == explored.found.front


def test_a_run_that_another_process_is_making_is_waited_for(
    explored: Explored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both by a trial and by those who confirm; neither gives up."""
    monkeypatch.setattr(workshop, "GLANCE_S", 0.05)
    monkeypatch.setattr(confirming, "GLANCE_S", 0.05)
    shop = replace(explored.wanted.search.workshop, _taught={})
    (name,) = explored.found.chosen
    candidate = next(c for c in candidates(explored) if c.name == name)
    deeds = {
        "base": lambda: shop.teach(0),
        f"{name}-float": lambda: shop.try_out(candidate, 0),
        f"{name}-confirmed": lambda: confirm(shop, [candidate]),
    }
    for held, deed in deeds.items():
        with Run.open(explored.out / "fold-0" / held).locked():
            thread = Thread(target=deed)
            thread.start()
            thread.join(0.5)
            assert thread.is_alive(), f"{held}: was not waited for"
        thread.join(120)
        assert not thread.is_alive()


def candidates(explored: Explored) -> list[Any]:
    from hark.exploring.trials import open_storage

    search = explored.wanted.search
    trials = search.open(open_storage(search.storage)).get_trials()
    return [search.space.candidate(trial.params) for trial in trials]


def test_a_recipe_whose_teacher_is_called_as_the_student_is_refused(explored: Explored) -> None:
    from hark.errors import ConfigError
    from hark.recipes.recipe import Recipe

    shop = explored.wanted.search.workshop
    stages = {"student": shop.teachers.stages["base"]}
    with pytest.raises(ConfigError, match="a teacher is called 'student'"):
        recipe_of(replace(shop, teachers=Recipe("t", "", stages)), candidates(explored)[0])


def test_the_command_goes_on_with_what_is_there_and_tells_the_result(
    explored: Explored, hark_: Hark, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of its own, which find all done."""
    monkeypatch.setattr(exploration, "do_all", do_all)
    source = explored.wanted.search.workshop.source
    done = hark_(
        "compress", source.root, "--keyword", "beep", "--speech", source.speech, "--folds", 2, "--device", "cpu",
        "--budget", "macs<=15000,bytes<=1200", "--quality", "<=1000x base", "--trials", TRIALS,
        "--confirm", CONFIRMED, "--space", explored.out / "space.toml",
        "--teachers", explored.out / "teachers.toml", "--out", explored.out,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "2 of 2 trials of 'beep' within macs<=15000,bytes<=1200" in done.out
    assert "Picked from 2 trials" in done.out
    assert list((explored.out / "workers").glob("*-0.log"))
    assert f"{explored.found.chosen[0]}: " in done.out and "on the test parts of 2 folds" in done.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "mac<=1"], "did you mean macs?"),
        (["--budget", "macs<=9", "--quality", "good"], "expected a bound such as '<=1.1x base'"),
        (["--budget", "macs<=9", "--split", "whole"], "leaves nothing to judge on"),
        (["--budget", "macs<=9", "--storage", "nonsense"], "expected a URL such as sqlite:///study.db"),
        (["--budget", "macs<=9", "--space", "nowhere.toml"], "nowhere.toml: cannot be read"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(hark_: Hark, options: list[str], message: str) -> None:
    done = hark_("compress", "speech", "--keyword", "beep", "--device", "cpu", *options)
    assert done.code == 2
    assert message in done.err and len(done.err.splitlines()) == 1
