"""Recipes: what is right parses into what it says, what is wrong is told in one line, nothing is executed."""

from __future__ import annotations

import copy
import datetime
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hark.errors import ConfigError
from hark.learning.batching import Variation
from hark.learning.distillation import DistillationConfig
from hark.learning.training import TrainingConfig
from hark.network.crnn import PUBLISHED, CrnnConfig
from hark.packed.front_end_settings import LogMelConfig
from hark.recipes.kinds import KINDS, DistillStage, PruneStage, QuantizeStage, TrainStage
from hark.recipes.recipe import (
    COOKBOOK,
    LARGEST_BYTES,
    load_recipe,
    override,
    parse_recipe,
)

HUGE = 10**5000
"""More digits than Python will print, as a TOML file may give them in hexadecimal."""

CHAIN: dict[str, Any] = {
    "about": "one of each kind",
    "training": {"epochs": 7, "variation": {"mask_bins": 3}},
    "stages": {
        "base": {"kind": "train", "network": "base"},
        "student": {"kind": "distill", "network": "stage-2", "teachers": ["base"], "setting": "student"},
        "pruned": {"kind": "prune", "model": "student", "teachers": ["base"]},
        "int8": {"kind": "quantize", "model": "pruned"},
        "qint8": {"kind": "quantize", "model": "base", "method": "dynamic"},
        "damage": {"kind": "damage", "model": "base"},
    },
}


def chain(**changes: Any) -> dict[str, Any]:
    """The chain with some keys changed; `stages__base__kind` names an inner one."""
    values = copy.deepcopy(CHAIN)
    for path, value in changes.items():
        *tables, leaf = path.split("__")
        table = values
        for name in tables:
            table = table.setdefault(name, {})
        table[leaf] = value
    return values


def fault(values: dict[str, Any]) -> str:
    """What is said against a recipe, which is one line."""
    with pytest.raises(ConfigError) as caught:
        parse_recipe(values, name="mine")
    message = str(caught.value)
    assert message.startswith("recipe mine: ")
    assert "\n" not in message
    return message.removeprefix("recipe mine: ")


@pytest.mark.parametrize("path", sorted(COOKBOOK.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_cookbook_is_valid_and_found_by_its_name(path: Path) -> None:
    recipe = load_recipe(path.stem)
    assert recipe == load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.about
    assert list(recipe.stages) == list(tomllib.loads(path.read_text())["stages"])


def test_the_cookbook_shows_what_the_reference_tried_in_every_combination() -> None:
    stages = load_recipe("reproduce").stages
    assert {type(stage) for stage in stages.values()} == set(KINDS.values())
    for network in ("base", "stage-2"):
        pruned, both = stages[f"{network}-pruned"], stages[f"{network}-pruned-int8"]
        assert isinstance(pruned, PruneStage)
        assert pruned.model == network
        assert isinstance(both, QuantizeStage)
        assert both.model == f"{network}-pruned"
        assert isinstance(stages[f"{network}-int8"], QuantizeStage)


def test_the_references_recipe_is_what_its_report_says() -> None:
    stages = load_recipe("reference").stages
    assert all(stage.group == "reference" and stage.setting for stage in stages.values())
    base, student = stages["base"], stages["stage-2"]
    assert isinstance(base, TrainStage)
    assert (base.training.optimizer, base.training.learning_rate, base.training.weight_decay) == (
        "adam",
        3e-4,
        1e-5,
    )
    assert (base.training.batch_size, base.training.clip_norm, base.training.averaging) == (128, 5.0, 0.0)
    assert base.training.variation == Variation(
        policy="reference", mask_bins=15, mask_frames=35, lived_in_share=0.0
    )
    assert isinstance(student, DistillStage)
    assert student.teachers == ("stage-1",)
    assert student.distillation == DistillationConfig(loss="reference", alpha=0.7, temperature=5.0)


def test_a_stage_may_hear_through_another_front_end() -> None:
    network = {"n_mels": 20, "kernel": [5, 10], "stride": [2, 3], "attention_window": 14}
    front_end = {"hop_length": 320, "n_fft": 512, "n_mels": 20}
    base = parse_recipe(chain(stages__base__network=network, stages__base__front_end=front_end), name="mine")
    stage = base.stages["base"]
    assert isinstance(stage, TrainStage)
    assert stage.front_end == LogMelConfig(hop_length=320, n_fft=512, n_mels=20)


@pytest.mark.parametrize(
    ("front_end", "said"),
    [
        ({"n_mels": 20}, "stages.base: front_end.n_mels is 20, expected 40 as network.n_mels"),
        (
            {"sample_rate": 11_025},
            "stages.base: front_end.sample_rate is 11025, expected 16000, at which recordings are decoded, or a "
            "whole part of it such as 8000",
        ),
        ({"hop_length": 500}, "hop_length 500: expected 1 to n_fft (400) samples"),
    ],
)
def test_a_front_end_that_does_not_fit_is_refused(front_end: dict[str, int], said: str) -> None:
    assert said in fault(chain(stages__base__front_end=front_end))


def test_a_chain_parses_into_stages_in_its_order() -> None:
    recipe = parse_recipe(CHAIN, name="mine")
    assert recipe.about == "one of each kind"
    assert list(recipe.stages) == list(CHAIN["stages"])
    assert [type(stage) for stage in recipe.stages.values()] == [
        KINDS[table["kind"]] for table in CHAIN["stages"].values()
    ]
    assert recipe.stages["pruned"].inputs() == ("student", "base")
    assert recipe.stages["base"].inputs() == ()


def test_what_stands_at_the_top_holds_for_stages_that_say_nothing_else() -> None:
    recipe = parse_recipe(
        chain(stages__student__training={"epochs": 9, "variation": {"mask_frames": 0}}), name="mine"
    )
    base, student, pruned = (recipe.stages[name].training for name in ("base", "student", "pruned"))  # type: ignore[union-attr]
    assert base == pruned == TrainingConfig(epochs=7, variation=Variation(mask_bins=3))
    assert student == TrainingConfig(epochs=9, variation=Variation(mask_bins=3, mask_frames=0))


def test_a_network_may_be_named_or_told_in_full() -> None:
    recipe = parse_recipe(chain(stages__base__network={"channels": 3, "hidden": [5, 4]}), name="mine")
    base = recipe.stages["base"]
    assert isinstance(base, TrainStage)
    assert base.network_config() == CrnnConfig(channels=3, hidden=(5, 4))
    assert TrainStage(network="stage-2").network_config() == PUBLISHED["stage-2"]


@pytest.mark.parametrize(("hop_length", "window"), [(160, 11), (320, 4), (80, 23)])
def test_attention_looks_back_over_a_clip_of_the_stages_front_end(hop_length: int, window: int) -> None:
    stage = TrainStage(network=CrnnConfig(), front_end=LogMelConfig(hop_length=hop_length))
    assert stage.network_config().window == window


@pytest.mark.parametrize(("clip_s", "window"), [(1.0, 11), (2.0, 23), (0.5, 4)])
def test_attention_looks_back_over_a_clip_of_the_task(clip_s: float, window: int) -> None:
    assert TrainStage(network="base").network_config(clip_s=clip_s).window == window


def test_one_scale_per_matrix_is_for_integers_only() -> None:
    assert QuantizeStage(model="base", scales="matrix").method == "integers"
    with pytest.raises(ConfigError, match="scales is 'matrix', expected 'row': only the method 'integers'"):
        QuantizeStage(model="base", method="rows", scales="matrix")


def test_parsing_leaves_the_values_as_they_were() -> None:
    values = copy.deepcopy(CHAIN)
    parse_recipe(values, name="mine")
    assert values == CHAIN


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("trainig", "unknown key trainig, did you mean training?"),
        ("training__epohcs", "unknown key training.epohcs, did you mean training.epochs?"),
        ("training__variation__mask_bin", "did you mean training.variation.mask_bins?"),
        ("distillation__temprature", "did you mean distillation.temperature?"),
        ("stages__base__netwrok", "unknown key stages.base.netwrok, did you mean stages.base.network?"),
        ("stages__base__training__seeed", "did you mean stages.base.training.seed?"),
        (
            "stages__base__training__variation__wave__snr",
            "did you mean stages.base.training.variation.wave.snr_db?",
        ),
        ("stages__pruned__pruning__grus", "did you mean stages.pruned.pruning.gru?"),
        ("stages__base__teachers", "unknown key stages.base.teachers"),
        ("stages__base__inputs", "unknown key stages.base.inputs"),
    ],
)
def test_an_unknown_key_at_any_depth_is_named_with_its_nearest(path: str, said: str) -> None:
    assert said in fault(chain(**{path: 1}))


def test_an_unknown_key_of_a_network_is_named() -> None:
    values = chain(stages__base__network={"chanels": 3})
    assert "unknown key stages.base.network.chanels, did you mean stages.base.network.channels?" in fault(values)


def test_a_fault_at_the_top_is_told_once_however_many_stages_use_it() -> None:
    assert fault(chain(training__epochs="7")) == "training.epochs is '7', expected a whole number"


def test_a_fault_at_the_top_is_told_even_if_no_stage_uses_it() -> None:
    values = {"training": {"epohcs": 3}, "stages": {"a": {"kind": "quantize", "model": "/run"}}}
    assert fault(values) == "unknown key training.epohcs, did you mean training.epochs?"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("about", 5, "about is 5, expected text"),
        ("training", 5, "training is 5, expected a table"),
        ("training__epochs", "7", "training.epochs is '7', expected a whole number"),
        ("training__epochs", 7.5, "training.epochs is 7.5, expected a whole number"),
        ("training__epochs", True, "training.epochs is True, expected a whole number"),
        ("training__epochs", 0, "epochs is 0, expected at least 1"),
        ("training__seed", -1, "seed is -1, expected 0 up to 2^63"),
        ("training__seed", 2**64, "training.seed is 18446744073709551616, expected one below 2^63"),
        ("training__learning_rate", math.nan, "training.learning_rate is nan, expected a number"),
        ("training__learning_rate", math.inf, "learning_rate is inf"),
        ("training__schedule", "linear", "schedule is 'linear', expected constant or cosine or one-cycle"),
        (
            "training__variation__wave__snr_db",
            [3, 2, 1],
            "expected a list of 2, each a number",
        ),
        ("distillation__temperature", math.nan, "temperature is nan, expected a number"),
        ("distillation__alpha", 2, "alpha is 2.0, expected 0 to 1"),
        ("stages__student__training__seed", "x", "stages.student.training.seed is 'x'"),
        ("stages", {}, "no stages; expected at least one table such as [stages.base]"),
        ("stages", [1], "no stages"),
        ("stages__base", 5, "stages.base: kind is 5, expected one of train, distill, quantize, quantize-aware,"),
        ("stages__base__kind", "trian", "stages.base: kind is 'trian'"),
        ("stages__base__kind", ["train"], "stages.base: kind is ['train']"),
        pytest.param("stages__base__kind", HUGE, "stages.base: kind is a huge int", id="huge kind"),
        ("stages__base__network", "bse", "network is 'bse', expected base or stage-1 or stage-2 or a table"),
        ("stages__base__network", {"hidden": []}, "1 to 16 recurrent layers"),
        (
            "stages__base__network",
            {"stride": [2, 0]},
            "network: stride is (2, 0), expected 1 to 4,096",
        ),
        (
            "stages__base__network",
            {"kernel": [5]},
            "kernel is [5], expected a list of 2, each a whole number",
        ),
        (
            "stages__base__setting",
            datetime.date(2021, 1, 2),
            "is datetime.date(2021, 1, 2), expected text",
        ),
        ("stages__student__teachers", [], "stages.student: no teachers, expected at least one"),
        ("stages__student__teachers", "base", "stages.student.teachers is 'base', expected a list, each text"),
        ("stages__int8__bits", 9, "stages.int8: bits is 9, expected 2 to 8"),
        pytest.param("stages__int8__bits", HUGE, "bits is a huge int, expected one below 2^63", id="huge bits"),
        ("stages__pruned__pruning", {"gru": 1.0}, "gru is 1.0, expected a share from 0 up to 1"),
        ("stages__damage__shares", [0.1, math.nan], "stages.damage.shares.1 is nan, expected a number"),
    ],
)
def test_a_wrong_value_is_told_before_anything_runs(path: str, value: object, said: str) -> None:
    assert said in fault(chain(**{path: value}))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("stages__student__teachers", ["bass"], "stages.student: takes 'bass', expected an earlier stage (base)"),
        ("stages__student__teachers", ["int8"], "stages.student: takes 'int8', expected an earlier stage (base)"),
        ("stages__student__teachers", ["student"], "stages.student: takes 'student'"),
        (
            "stages__damage__model",
            "int8",
            "stages.damage: takes 'int8', expected an earlier stage (base, student, pruned)",
        ),
        ("stages__late", {"kind": "quantize", "model": "damage"}, "stages.late: takes 'damage'"),
        ("stages__late", {"kind": "quantize", "model": "int8"}, "stages.late: takes 'int8'"),
        (
            "stages__late",
            {"kind": "distill", "network": "base", "teachers": ["qint8"]},
            "stages.late: takes 'qint8'",
        ),
        ("stages__base", {"kind": "quantize", "model": "x"}, "expected an earlier stage (there is none)"),
    ],
)
def test_a_stage_takes_only_what_an_earlier_one_gives(path: str, value: object, said: str) -> None:
    """The kind of model counts too: only one of floats can be shrunk, and nothing learns from dynamic qint8."""
    assert said in fault(chain(**{path: value}))


def test_a_quantised_model_may_teach_and_so_may_a_run_from_outside() -> None:
    late = {"kind": "distill", "network": "base", "teachers": ["int8", "/runs/elsewhere"]}
    assert parse_recipe(chain(stages__late=late), name="mine").stages["late"].inputs() == (
        "int8",
        "/runs/elsewhere",
    )


@pytest.mark.parametrize("name", ["../out", "/out", "a/b", "..", ".", "", ".hidden", "a\nb", "a\0b", "n" * 101])
def test_a_stage_cannot_lead_out_of_its_recipes_folder(name: str) -> None:
    values = chain()
    values["stages"][name] = {"kind": "train", "network": "base"}
    assert "expected a plain folder name of at most 100 letters" in fault(values)


def test_all_faults_are_told_at_once_and_none_that_only_follows_from_another() -> None:
    values = chain(
        trainig=1,
        stages__base__training={"epochs": 0, "batch_size": 0},
        stages__student__netwrok="base",
        stages__int8__bits=1,
    )
    said = fault(values).split("; ")
    assert said == [
        "unknown key trainig, did you mean training?",
        "stages.base: training: epochs is 0, expected at least 1",
        "batch_size is 0, expected at least 1",
        "unknown key stages.student.netwrok, did you mean stages.student.network?",
        "stages.int8: bits is 1, expected 2 to 8",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[stages", "cannot be read as a recipe"),
        (b"\xff\xfe", "cannot be read as a recipe"),
        (b"a = 1\na = 2", "cannot be read as a recipe"),
        pytest.param(b"a = " + b"9" * 5000, "cannot be read as a recipe", id="too many digits"),
        pytest.param(b"a = " + b"[" * 100_000, "cannot be read as a recipe", id="too deep"),
        pytest.param(b"#" * (LARGEST_BYTES + 1), "more than 262,144 bytes", id="too long"),
        pytest.param(b"a." * 50_000 + b"b = 1", "more than 64 dots in a line", id="a deep key"),
        pytest.param(b"a = {" + b"a." * 65 + b"b = 1}", "more than 64 dots in a line", id="a deep inner key"),
        (b"", "no stages"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "missing.toml", "../cookbook/demo", "a\0b"])
def test_a_recipe_that_is_not_there_is_answered_with_those_that_are(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a TOML file or one of demo, integers, reference, reproduce"):
        load_recipe(tmp_path / name)


def test_overrides_change_single_keys_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[stages.base]\nkind = "train"\nnetwork = "base"')
    changes = (
        "training.epochs=3",
        "stages.base.training.seed = 5",
        "stages.base.network={channels = 2}",
        "stages.base.setting=a word",
        "training.epochs=4",
    )
    base = load_recipe(path, overrides=changes).stages["base"]
    assert base == TrainStage(
        network=CrnnConfig(channels=2), setting="a word", training=TrainingConfig(epochs=4, seed=5)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("epochs", "--set epochs: expected key=value, such as training.epochs=20"),
        ("=3", "expected key=value"),
        ("about.x=3", "about is a value, not a table"),
        ("training.epohcs=3", "did you mean training.epochs?"),
        ("training.epochs=three", "training.epochs is 'three', expected a whole number"),
        pytest.param("training.epochs=" + "[" * 100_000, "training.epochs is '[[[", id="too deep"),
        pytest.param("training.epochs=" + "9" * 5000, "training.epochs is '999", id="too many digits"),
    ],
)
def test_an_override_that_cannot_be_is_refused(tmp_path: Path, change: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('about = "x"\n[stages.base]\nkind = "train"\nnetwork = "base"')
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides=[change])
    assert said in str(caught.value)


def test_text_that_looks_like_code_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is expanded, interpolated, imported or called: neither variables, nor tags, nor expressions."""
    monkeypatch.setenv("HARK_SECRET", "leaked")
    for text in ("$HARK_SECRET", "${HARK_SECRET}", "{{ 7 * 7 }}", "__import__('os').getcwd()", "!!python/name:os"):
        values = chain(stages__base__setting=text)
        assert parse_recipe(values, name="mine").stages["base"].setting == text
        override(values, f"stages.base.setting={text}")
        assert values["stages"]["base"]["setting"] == text
    assert "unknown key stages.base._target_" in fault(chain(stages__base___target_="os.system"))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.builds(lambda: HUGE)
)
KNOWN_KEYS = (
    "about stages training distillation kind network model teachers pruning shares bits variation wave epochs "
    "seed hidden kernel stride snr_db base"
)
KEYS = st.sampled_from(KNOWN_KEYS.split()) | st.text(max_size=4)
WORDS = st.sampled_from([*KINDS, "base", "stage-2", "dynamic", "loss"])
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100)
@given(
    values=st.dictionaries(KEYS, VALUES, max_size=4),
    stages=st.dictionaries(
        st.text(max_size=5),
        st.fixed_dictionaries(
            {"kind": st.sampled_from(list(KINDS))}, optional={"network": VALUES, "model": VALUES}
        )
        | VALUES,
        max_size=3,
    ),
    training=st.dictionaries(st.sampled_from(sorted(vars(TrainingConfig()))), VALUES, max_size=3),
)
def test_whatever_the_values_only_a_configuration_error_comes_of_them(
    values: dict[str, Any], stages: dict[str, Any], training: dict[str, Any]
) -> None:
    for recipe in (values, {**values, "stages": stages}, {"stages": stages, "training": training}):
        try:
            assert parse_recipe(recipe, name="any").stages
        except ConfigError as error:
            assert len(str(error).splitlines()) == 1


@settings(max_examples=100)
@given(path=st.lists(KEYS, min_size=1, max_size=4), value=VALUES)
def test_any_one_value_changed_in_a_good_recipe_is_taken_or_refused(path: list[str], value: Any) -> None:
    values: dict[str, Any] = chain()
    table: Any = values
    for name in path[:-1]:
        table = table.setdefault(name, {}) if isinstance(table, dict) else {}
    if isinstance(table, dict):
        table[path[-1]] = value
    try:
        parse_recipe(values, name="any")
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
