from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contract import (
    CHEAPER,
    SMALL,
    SMALL_SAMPLES,
    check_streaming_contract,
    chunkings,
    seeded,
    small_sound,
    small_spotter,
)
from hark.errors import ConfigError, ModelError
from hark.network.attention import Attention, QueryAttention
from hark.network.crnn import Crnn
from hark.network.spotter import Spotter
from hark.proof.cost import cost_of
from hark.shrinking.pruning import PruningConfig, Units, all_units, calibration_loss, keep, prune, zero_rows
from hark.shrinking.quantization import quantize
from hark.storage.model_files import load, to_bytes

EXACT = {"rtol": 0, "atol": 1e-12}
BINS = 3  # frequencies that the small network's convolution gives out

NOTHING = PruningConfig(conv=0, gru=0, attention=0)
SOME = PruningConfig(conv=0.5, gru=0.4, attention=0.5)


def small_network() -> Crnn:
    return small_spotter().network.double()


def frames() -> Tensor:
    return seeded(lambda: torch.randn(2, 8, 19, dtype=torch.float64))


def kept(count: int) -> st.SearchStrategy[Tensor]:
    """Some of `count` units, at least one, in order."""
    units = st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True)
    return units.map(lambda chosen: torch.tensor(sorted(chosen)))


some_units = st.builds(
    Units, conv=kept(SMALL.channels), gru=st.tuples(*map(kept, SMALL.hidden)), attention=kept(SMALL.hidden[-1])
)


@torch.no_grad()
def without_influence(network: Crnn, stay: Units) -> Crnn:
    """`network` at full size, in which nothing reads the units that go: their columns are zero."""
    gone = {
        name: [unit for unit in units.tolist() if unit not in dict(stay.groups())[name].tolist()]
        for name, units in all_units(network).groups()
    }
    first, second = (network.gru.get_submodule(name) for name in ("0", "1"))
    for channel in gone["conv"]:
        first.weight_ih[:, channel * BINS : (channel + 1) * BINS] = 0
    for readers, units in (
        ((first.weight_hh, second.weight_ih), gone["gru.0"]),
        ((second.weight_hh, network.attention.project.weight, network.classifier.weight), gone["gru.1"]),
        ((network.attention.score.weight,), gone["attention"]),
    ):
        for reader in readers:
            reader[:, units] = 0
    return network


@settings(max_examples=25, deadline=None, derandomize=True)
@given(stay=some_units)
def test_removing_units_is_cutting_all_that_reads_them(stay: Units) -> None:
    """One index means the same unit in all three gates, in the recurrence and in every reader."""
    small = keep(small_network(), stay)
    torch.testing.assert_close(small(frames()), without_influence(small_network(), stay)(frames()), **EXACT)
    assert small.config.channels == len(stay.conv)
    assert small.config.hidden == tuple(len(layer) for layer in stay.gru)
    assert small.config.attention_units == len(stay.attention)


def test_removing_what_is_zero_anyway_changes_nothing() -> None:
    channels, units, more, attention = (torch.tensor(stay) for stay in ([1], [0, 2, 4], [1, 3], [2]))
    stay = Units(conv=channels, gru=(units, more), attention=attention)
    network = without_influence(small_network(), stay)
    torch.testing.assert_close(keep(network, stay)(frames()), network(frames()), **EXACT)


def test_the_same_index_goes_from_all_three_gates() -> None:
    network = small_network()
    stay = all_units(network).with_group("gru.0", torch.tensor([0, 1, 3]))
    small = keep(network, stay).gru.get_submodule("0")
    full = network.gru.get_submodule("0")
    rows = [0, 1, 3, 5, 6, 8, 10, 11, 13]
    assert torch.equal(small.weight_ih, full.weight_ih[rows])
    assert torch.equal(small.weight_hh, full.weight_hh[rows][:, [0, 1, 3]])
    assert torch.equal(small.bias_ih, full.bias_ih[rows])
    assert torch.equal(small.bias_hh, full.bias_hh[rows])


@pytest.mark.parametrize("name", CHEAPER)
def test_units_of_cheaper_networks_go_with_all_that_reads_them(name: str) -> None:
    """As far as a network without them is one in which nothing reads them."""
    network = small_spotter(CHEAPER[name]).network.double()
    everything = all_units(network)
    stay = Units(
        conv=torch.tensor([1]),
        gru=(torch.tensor([0, 2, 4]), torch.tensor([1, 2])),
        attention=everything.attention[1:],
    )
    small = keep(network, stay)
    x = seeded(lambda: torch.randn(2, 8, 40, dtype=torch.float64))
    torch.testing.assert_close(small(x), unread(network, stay)(x), **EXACT)
    assert (small.config.channels, small.config.hidden) == (1, (3, 2))
    assert Crnn(small.config).load_state_dict(small.state_dict())


@torch.no_grad()
def unread(network: Crnn, stay: Units) -> Crnn:
    """`network` at full size, in which nothing reads the units that go; found by shape, not by name."""
    gone = [sorted({*range(5)} - {*stay.gru[0].tolist()}), sorted({*range(4)} - {*stay.gru[1].tolist()})]
    bins = network.config.map_bins
    reader = network.gru.get_submodule("0").weight_ih if network.reduce is None else network.reduce.weight
    reader[:, :bins] = 0
    first, second = (network.gru.get_submodule(name) for name in ("0", "1"))
    for weight in (first.weight_hh, second.weight_ih):
        weight[:, gone[0]] = 0
    readers = [second.weight_hh, network.classifier.weight]
    match network.attention:
        case Attention() as attention:
            readers.append(attention.project.weight)
            attention.score.weight[:, 0] = 0
        case QueryAttention() as attention:
            readers.append(attention.query)
    for weight in readers:
        weight[:, gone[1]] = 0
    return network


@pytest.mark.parametrize("kind", ["query", "mean", "last"])
def test_attention_without_units_is_not_pruned(kind: str) -> None:
    model = small_spotter(replace(SMALL, attention=kind))
    message = f"prune: attention is 0.3, expected 0: the network's attention is '{kind}', which has no units"
    with pytest.raises(ConfigError, match=message):
        prune(model, PruningConfig(conv=0.5, gru=0.4, attention=0.3))
    pruned = prune(model, PruningConfig(conv=0.5, gru=0.4, attention=0)).config.network
    assert (pruned.channels, pruned.hidden, pruned.attention_units) == (1, (3, 3), None)


@pytest.mark.parametrize("cell", ["minimal", "fast"])
def test_the_same_index_goes_from_all_gates_of_smaller_cells(cell: str) -> None:
    network = small_spotter(replace(SMALL, cell=cell)).network
    stay = all_units(network).with_group("gru.0", torch.tensor([0, 3]))
    small, full = (each.gru.get_submodule("0") for each in (keep(network, stay), network))
    for name, tensor in full.named_parameters():
        rows = [5 * gate + unit for gate in range(len(tensor) // 5) for unit in (0, 3)]
        expected = tensor[rows][:, [0, 3]] if name == "weight_hh" else tensor[rows]
        assert torch.equal(small.get_parameter(name), expected), name


def test_pruning_nothing_is_the_identity() -> None:
    model = small_spotter()
    pruned = prune(model, NOTHING)
    assert torch.equal(pruned(small_sound().float()), model(small_sound().float()))
    assert {name: t.shape for name, t in pruned.state_dict().items()} == {
        name: t.shape for name, t in model.state_dict().items()
    }


def test_the_model_that_is_pruned_stays_as_it_was() -> None:
    model = small_spotter()
    before = to_bytes(model)
    prune(model, SOME)
    assert to_bytes(model) == before


@pytest.mark.parametrize("share", [0.2, 0.4, 0.5, 0.8, 0.99])
def test_the_given_share_goes_and_one_unit_always_stays(share: float) -> None:
    config = prune(small_spotter(), PruningConfig(conv=share, gru=share, attention=share)).config.network
    assert config.channels == 2 - int(2 * share)
    assert config.hidden == (5 - int(5 * share), 4 - int(4 * share))
    assert config.attention_units == 4 - int(4 * share)


def test_each_kind_of_layer_has_a_share_of_its_own() -> None:
    config = prune(small_spotter(), replace(NOTHING, attention=0.5)).config.network
    assert (config.channels, config.hidden, config.attention_units) == (2, (5, 4), 2)


def test_attention_looks_back_as_far_as_before() -> None:
    assert prune(small_spotter(), SOME).config.network.window == SMALL.window


def test_by_magnitude_the_units_with_the_smallest_weights_go() -> None:
    model = small_spotter()
    layer = model.network.gru.get_submodule("0")
    with torch.no_grad():
        for unit in (1, 4):
            for rows in (layer.weight_ih, layer.weight_hh):
                rows[[unit, 5 + unit, 10 + unit]] *= 1e-3
            layer.weight_hh[:, unit] *= 1e-3
            model.network.gru.get_submodule("1").weight_ih[:, unit] *= 1e-3
    expected = keep(model.network, all_units(model.network).with_group("gru.0", torch.tensor([0, 2, 3])))
    pruned = prune(model, replace(NOTHING, gru=0.4)).network.gru.get_submodule("0")
    assert torch.equal(pruned.weight_hh, expected.gru.get_submodule("0").weight_hh)


def test_by_loss_the_units_whose_loss_costs_least_go() -> None:
    """A loss that counts what one attention unit weighs keeps that unit, however small it is."""
    model = small_spotter()
    with torch.no_grad():
        model.network.attention.project.bias.copy_(torch.tensor([0.0, 0.0, 1e-3, 0.0]))
    pruned = prune(
        model,
        replace(NOTHING, attention=0.75, importance="loss"),
        loss=lambda model: -model.network.attention.project.bias.sum().item(),
    )
    assert pruned.network.attention.project.bias.tolist() == pytest.approx([1e-3])


def test_calibration_loss_is_the_cross_entropy_at_the_end_of_the_clips() -> None:
    model, sound, targets = small_spotter(), small_sound().float(), torch.tensor([0, 1, 1])
    logits = model(sound)[..., -1]
    expected = -logits.log_softmax(dim=1)[range(3), targets].mean()
    assert calibration_loss(sound, targets)(model) == pytest.approx(expected.item(), rel=1e-6)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_pruned_model_keeps_the_contract(data: st.DataObject) -> None:
    pruned = prune(small_spotter(), SOME)
    check_streaming_contract(pruned, small_sound(), data.draw(chunkings(SMALL_SAMPLES)))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_pruned_and_quantised_model_keeps_the_contract(data: st.DataObject) -> None:
    pruned = quantize(prune(small_spotter(), SOME), bits=4)
    check_streaming_contract(pruned, small_sound(), data.draw(chunkings(SMALL_SAMPLES)))


def test_a_pruned_model_counts_less_of_everything() -> None:
    before, after = cost_of(small_spotter()), cost_of(prune(small_spotter(), SOME))
    assert after.per_clip("thop") < before.per_clip("thop")
    assert after.per_second("macs") < before.per_second("macs")
    assert after.parameters < before.parameters
    assert after.weight_bytes < before.weight_bytes
    assert after.state_bytes < before.state_bytes


def test_a_pruned_model_comes_back_from_its_file(tmp_path: Path) -> None:
    pruned = prune(small_spotter(), SOME)
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_bytes(pruned))
    assert load(path).config == pruned.config
    assert torch.equal(load(path)(small_sound().float()), pruned(small_sound().float()))


@pytest.mark.parametrize("mode", [Spotter.eval, Spotter.train])
def test_a_pruned_model_is_in_the_mode_and_of_the_type_of_its_model(mode: Callable[[Spotter], Spotter]) -> None:
    model = mode(small_spotter().double())
    pruned = prune(model, SOME)
    assert {module.training for module in pruned.modules()} == {model.training}
    assert {parameter.dtype for parameter in pruned.parameters()} == {torch.float64}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_row_wise_pruning_zeroes_whole_rows_at_the_given_share(share: float) -> None:
    model = small_spotter(replace(SMALL, hidden=(4, 4)))
    crippled = zero_rows(model, share=share)
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"):
        empty = (getattr(crippled.gru, name) == 0).all(dim=1)
        norms = model.network.gru.get_submodule(name[-1]).get_parameter(name[:-3]).abs().sum(dim=1)
        assert empty.sum() == 12 * share
        assert (norms[empty].max() if share else 0) <= (norms[~empty].min() if share < 1 else torch.inf)


def test_row_wise_pruning_leaves_the_model_and_the_biases_alone() -> None:
    model = small_spotter(replace(SMALL, hidden=(4, 4)))
    before = to_bytes(model)
    crippled = zero_rows(model, share=0.5)
    assert to_bytes(model) == before
    assert torch.equal(crippled.gru.bias_ih_l1, model.network.gru.get_submodule("1").bias_ih)


def test_row_wise_pruning_removes_different_units_in_each_gate() -> None:
    """The fault that made pruning look hopeless in the reference report."""
    crippled = zero_rows(small_spotter(replace(SMALL, hidden=(4, 4))), share=0.3)
    empty = (crippled.gru.weight_hh_l0 == 0).all(dim=1).view(3, 4)
    assert not (torch.equal(empty[0], empty[1]) and torch.equal(empty[1], empty[2]))


def test_a_quantised_model_is_not_pruned() -> None:
    with pytest.raises(ModelError, match="cannot be pruned; prune the float model, then quantise"):
        prune(quantize(small_spotter()), SOME)
    with pytest.raises(ModelError, match="holds no quantised weights; give it the float model"):
        zero_rows(quantize(small_spotter()), share=0.3)


def test_a_loss_that_is_not_there_cannot_rank() -> None:
    with pytest.raises(ConfigError, match='importance "loss" needs calibration data; use "magnitude" without it'):
        prune(small_spotter(), PruningConfig(importance="loss"))


@pytest.mark.parametrize("group", ["conv", "gru", "attention"])
@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_out_of_range_are_refused(group: str, share: float) -> None:
    with pytest.raises(ConfigError, match=f"prune: {group} is {share}, expected a share from 0 up to 1"):
        PruningConfig(**{group: share})
