"""The space that is searched: parts by name, ranges and lists, and what they make."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler
from optuna.study import create_study

from hark.errors import ConfigError
from hark.exploring.space import Real, Space, Whole, load_space
from hark.packed.front_end_settings import LogMelConfig
from hark.recipes.kinds import DistillStage, PruneStage, QuantizeAwareStage

NARROW: dict[str, Any] = {
    "front_ends": (LogMelConfig(hop_length=320, n_fft=512, n_mels=20),),
    "normalization_bands": ("one",),
    "pooling_frames": (2,),
    "pooling_bands": (1,),
    "channels": Whole(3, 3),
    "kernel_ms": Whole(160, 160),
    "stride_ms": Whole(80, 80),
    "kernel_bands": (0.25,),
    "stride_bands": Real(0.1, 0.1),
    "convolution": ("separable",),
    "rank": (4,),
    "cell": ("minimal",),
    "layers": (2,),
    "hidden": Whole(6, 6),
    "pruned_share": (0.0,),
    "attention": ("query",),
    "classes": (1,),
    "bits": (4,),
    "scales": ("matrix",),
    "epochs": (100,),
    "learning_rate": Real(0.005, 0.005),
    "fine_tuning_epochs": (30,),
    "fine_tuning_rate": Real(0.001, 0.001),
    "averaging": (0.99,),
    "masked_share": (0.1,),
    "lived_in_share": (0.3,),
    "alpha": Real(0.5, 0.5),
    "temperature": Real(2.0, 2.0),
    "attention_weight": (0.1,),
}


def one_of(space: Space, seed: int = 0) -> dict[str, Any]:
    return create_study(sampler=RandomSampler(seed=seed)).ask(space.distributions()).params


def test_a_space_of_one_value_each_is_drawn_from_nowhere_and_makes_one_candidate() -> None:
    space = Space(**NARROW)
    assert space.distributions() == {}
    candidate = space.candidate({})
    network = candidate.network
    assert (network.pooling, network.kernel, network.stride) == ((1, 2), (5, 4), (2, 2))  # frames of 40 ms
    assert (network.channels, network.rank, network.cell, network.hidden) == (3, 4, "minimal", (6, 6))
    assert (network.convolution, network.attention, network.classes) == ("separable", "query", 1)
    assert (candidate.bits, candidate.scales, candidate.normalization_bands) == (4, "matrix", "one")
    assert (candidate.training.epochs, candidate.fine_tuning.epochs) == (100, 30)
    assert (candidate.training.variation.mask_bins, candidate.training.variation.mask_frames) == (2, 5)
    assert candidate.distillation.attention == 0.1


def test_every_part_but_the_settings_of_the_search_is_drawn_from() -> None:
    fixed = {"lessons", "begin_with", "epochs", "fine_tuning_epochs", "lived_in_share"}
    assert set(Space().distributions()) == {entry.name for entry in fields(Space)} - fixed


def test_kernels_last_as_long_behind_every_front_end() -> None:
    lengths = set()
    for front_end in Space().front_ends:
        candidate = Space(**{**NARROW, "front_ends": (front_end,), "pooling_frames": (1,)}).candidate({})
        lengths.add(round(candidate.network.kernel[1] * 1000 / front_end.frame_rate))
    assert all(abs(length - 160) <= 20 for length in lengths)


def test_no_kernel_is_shorter_than_its_stride() -> None:
    space = Space(**{**NARROW, "kernel_ms": Whole(40, 40), "stride_ms": Whole(200, 200)})
    network = space.candidate({}).network
    assert network.kernel[1] == network.stride[1]


@pytest.mark.parametrize(
    ("attention", "weight"), [("additive", 0.1), ("query", 0.1), ("mean", 0.0), ("last", 0.0)]
)
def test_attention_is_learned_from_teachers_only_where_steps_are_weighed(attention: str, weight: float) -> None:
    space = Space(**{**NARROW, "attention": (attention,)})
    assert space.candidate({}).distillation.attention == weight


def test_equal_candidates_have_one_name_and_others_have_others() -> None:
    values = one_of(Space())
    one, again = Space().candidate(values), Space().candidate(values)
    assert one.name == again.name
    assert Space().candidate({**values, "hidden": values["hidden"] + 1}).name != one.name
    assert Path(one.name).name == one.name


def test_a_candidate_s_last_stage_is_what_ships_and_the_only_one_judged() -> None:
    stages = Space(**NARROW).candidate({}).stages("small", ("base", "base-b"), seed=5, setting="small")
    assert list(stages) == ["small-float", "small"]
    student, shipped = stages.values()
    assert isinstance(student, DistillStage) and isinstance(shipped, QuantizeAwareStage)
    assert student.setting is None and shipped.setting == "small"
    assert student.teachers == shipped.teachers == ("base", "base-b")
    assert student.training.seed == shipped.training.seed == 5
    assert (shipped.bits, shipped.scales, shipped.model) == (4, "matrix", "small-float")


def test_a_pruned_candidate_loses_units_before_it_is_put_into_integers() -> None:
    candidate = Space(**{**NARROW, "pruned_share": (0.3,)}).candidate({})
    stages = candidate.stages("small", ("base",))
    assert [type(stage) for stage in stages.values()] == [DistillStage, PruneStage, QuantizeAwareStage]
    assert stages["small"].inputs()[0] == "small-pruned"


def test_a_search_begins_with_those_starts_that_are_in_the_space() -> None:
    assert len(Space().starts()) == len(Space().begin_with) > 0
    for start in Space().starts():
        parts = Space().distributions()
        assert all(part in parts for part in start)
        assert Space().candidate({**one_of(Space()), **start})
    assert Space(cell=("gru",)).starts() == []
    narrower = Space(cell=("minimal",)).starts()
    assert narrower and all("cell" not in start for start in narrower)


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'bits = [4]\nhidden = { low = 4, high = 12 }\nfront_ends = [{ n_mels = 20 }]\ncell = ["fast"]\n'
    )
    expected = Space(bits=(4,), hidden=Whole(4, 12), front_ends=(LogMelConfig(n_mels=20),), cell=("fast",))
    assert load_space(file) == expected
    assert load_space(file).digest == expected.digest != Space().digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bitz = [4]", "unknown key mine.bitz, did you mean mine.bits?"),
        ("hidden = { low = 9, high = 4 }", "from 9 to 4, expected 1 <= low <= high"),
        ("alpha = { low = 0.0, high = 1.0 }", "from 0.0 to 1.0, expected 0 < low <= high"),
        ("bits = []", "bits is an empty list, expected at least one value"),
        ('cell = ["lstm"]', "expected gru or minimal or fast"),
        ("begin_with = [{ cel = 1 }]", "unknown key begin_with.0.cel, did you mean begin_with.0.cell?"),
        ("bits = [", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_by_the_name_of_its_fault(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_space(file)
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        load_space(tmp_path / "nowhere.toml")


PAGE = (Path(__file__).resolve().parents[1] / "docs" / "compression.md").read_text()


def test_the_page_names_every_part_and_its_example_is_a_space(tmp_path: Path) -> None:
    in_table = set(re.findall(r"`(\w+)`", "".join(line for line in PAGE.splitlines() if line.startswith("| `"))))
    assert {name for name in Space().distributions()} <= in_table
    file = tmp_path / "page.toml"
    file.write_text(
        "\n".join(re.findall(r"^    (?! )(.*)$", PAGE.partition("drawn from on a logarithmic scale")[2], re.M))
    )
    assert load_space(file).starts() == [{"channels": 6, "hidden": 8}]
