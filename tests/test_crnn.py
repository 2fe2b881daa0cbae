from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from contract import CHEAPER, check_streaming_contract, chunkings, seeded, spotter
from hark.errors import ConfigError, ModelError, ModelFileError
from hark.network.crnn import BASE, PUBLISHED, STAGE_1, STAGE_2, Crnn, CrnnConfig
from hark.network.reference import ReferenceCrnn, from_reference
from hark.network.streaming import flatten
from hark.shrinking.quantization import quantize

EXACT = {"rtol": 0, "atol": 1e-12}


class Report(nn.Module):
    """The network written down once more from the report's text alone, in the layout of its checkpoints."""

    def __init__(self, channels: int, stride: tuple[int, int], hidden: int, layers: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, channels, (5, 20), stride))
        self.gru = nn.GRU(18 * channels, hidden, layers, dropout=0.1 if layers > 1 else 0.0)
        self.attention = nn.Module()
        self.attention.energy = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.classifier = nn.Linear(hidden, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Log-mels of a clip `(batch, 40, 100)` to logits `(batch, 2)`."""
        maps = self.conv(features[:, None])
        by_step = torch.stack([maps[..., step].flatten(1) for step in range(maps.shape[-1])])
        hidden, _ = self.gru(by_step)
        weights = self.attention.energy(hidden).softmax(dim=0)
        return self.classifier((hidden * weights).sum(dim=0))


REPORTS = {
    "base": lambda: Report(8, (2, 8), 64, 2),
    "stage-1": lambda: Report(8, (2, 8), 40, 2),
    "stage-2": lambda: Report(2, (2, 6), 16, 1),
}


def report(name: str) -> Report:
    return seeded(REPORTS[name]).double().eval()


def clips() -> Tensor:
    return seeded(lambda: torch.randn(3, 40, 100, dtype=torch.float64))


@pytest.mark.parametrize(("config", "parameters"), [(BASE, 70_443), (STAGE_1, 34_731), (STAGE_2, 3_117)])
def test_published_networks_have_the_published_size(config: CrnnConfig, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in Crnn(config).parameters()) == parameters


@pytest.mark.parametrize(("config", "steps"), [(BASE, 11), (STAGE_1, 11), (STAGE_2, 14)])
def test_attention_looks_back_over_the_steps_of_a_clip(config: CrnnConfig, steps: int) -> None:
    assert config.window == Crnn(config).attention.window == steps
    assert Crnn(config)(torch.zeros(1, 40, 100)).shape == (1, 2, steps)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_checkpoint_of_the_report_gives_its_logits_at_the_end_of_a_clip(name: str) -> None:
    theirs = report(name)
    ours = from_reference(theirs.state_dict()).double().eval()
    assert replace(ours.config, attention_units=None, dropout=0.1) == replace(PUBLISHED[name], dropout=0.1)
    torch.testing.assert_close(ours(clips())[..., -1], theirs(clips()), **EXACT)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_checkpoint_of_the_report_streams(name: str, data: st.DataObject) -> None:
    theirs = report(name)
    ours = from_reference(theirs.state_dict()).double().eval()
    state, logits = ours.initial_state(3), []
    for chunk in clips().split(data.draw(chunkings(100)), dim=-1):
        y, state = ours.step(chunk, state)
        logits.append(y)
    torch.testing.assert_close(torch.cat(logits, dim=-1)[..., -1], theirs(clips()), **EXACT)


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_copy_of_the_reference_is_the_reference(name: str) -> None:
    theirs = report(name)
    copied = ReferenceCrnn(from_reference(theirs.state_dict()))
    assert list(copied.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(copied.double().eval()(clips()), theirs(clips()), **EXACT)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_keep_the_contract(name: str, data: st.DataObject) -> None:
    check_streaming_contract(seeded(lambda: Crnn(PUBLISHED[name])), clips(), data.draw(chunkings(100)))


def changed(**weights: object) -> dict[str, object]:
    """The base network's checkpoint with other values; None removes. `__` stands for the dot in a name."""
    values = report("base").state_dict() | {name.replace("__", "."): value for name, value in weights.items()}
    return {name: value for name, value in values.items() if value is not None}


BAD_CHECKPOINTS = {
    "empty": {},
    "of another network": {"fc.weight": torch.zeros(3, 3)},
    "without its convolution": changed(conv__0__weight=None),
    "without its second layer's recurrence": changed(gru__weight_hh_l1=None),
    "without its classifier": changed(classifier__weight=None),
    "without a bias": changed(attention__energy__0__bias=None),
    "without a recurrent layer": changed(gru__weight_ih_l0=None, gru__weight_ih_l1=None),
    "with something more": changed(extra__weight=torch.zeros(1)),
    "with a flat kernel": changed(conv__0__weight=torch.zeros(8)),
    "with a kernel higher than 40 bands": changed(conv__0__weight=torch.zeros(8, 1, 41, 20)),
    "with a kernel longer than a clip": changed(conv__0__weight=torch.zeros(8, 1, 5, 130)),
    "with a kernel shorter than its stride": changed(conv__0__weight=torch.zeros(8, 1, 5, 2)),
    "with a number for a weight": changed(conv__0__weight=3),
    "with another shape": changed(gru__weight_ih_l0=torch.zeros(192, 7)),
}


@pytest.mark.parametrize("weights", BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS.keys())
def test_a_checkpoint_that_is_not_the_reports_is_refused_in_one_line(weights: dict[str, Tensor]) -> None:
    with pytest.raises(
        ModelFileError, match=r"^not the reference's CRNN \(.+\); expected conv\.0\.\*, gru"
    ) as caught:
        from_reference(weights)
    assert "\n" not in str(caught.value)


def test_the_reference_refuses_layers_of_different_width() -> None:
    with pytest.raises(ModelError, match=r"GRU layers of \(64, 40\) units: nn.GRU expects equal widths"):
        ReferenceCrnn(Crnn(replace(BASE, hidden=(64, 40))))


def test_the_reference_refuses_quantised_weights() -> None:
    with pytest.raises(ModelError, match="holds no quantised weights; give it the float model"):
        ReferenceCrnn(quantize(spotter(STAGE_2)).network)


def test_a_trace_shows_where_attention_looked() -> None:
    network = seeded(lambda: Crnn(STAGE_2)).double().eval()
    trace = network.trace(clips(), network.initial_state(3))
    assert torch.equal(trace.logits, network(clips()))
    assert trace.attention.shape == (3, 14, 14)
    torch.testing.assert_close(trace.attention.sum(dim=-1), torch.ones(3, 14, dtype=torch.float64))


@pytest.mark.parametrize("name", CHEAPER)
@pytest.mark.parametrize("decisions", [0, 1, 2, 99])
def test_a_trace_of_the_last_decisions_is_the_end_of_the_whole(name: str, decisions: int) -> None:
    network = seeded(lambda: Crnn(CHEAPER[name])).double().eval()
    x = seeded(lambda: torch.randn(3, 8, 40, dtype=torch.float64))
    whole = network.trace(x, network.initial_state(3))
    last = network.trace(x, network.initial_state(3), decisions=decisions)
    steps = min(decisions, whole.logits.shape[-1])
    first = whole.logits.shape[-1] - steps
    torch.testing.assert_close(last.logits, whole.logits[..., first:], **EXACT)
    if whole.attention is not None:
        torch.testing.assert_close(last.attention, whole.attention[:, first:], **EXACT)
    assert all(torch.equal(tensor, flatten(whole.state)[name]) for name, tensor in flatten(last.state).items())


def test_states_are_named_by_module_paths() -> None:
    names = set(flatten(Crnn(BASE).initial_state()))
    assert names == {
        "conv.past",
        "conv.filled",
        "gru.0.hidden",
        "gru.1.hidden",
        "attention.hidden",
        "attention.energy",
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"channels": 0}, "channels is 0, expected 1 to 4,096"),
        ({"hidden": ()}, "1 to 16 recurrent layers"),
        ({"hidden": (1,) * 17}, "1 to 16 recurrent layers"),
        ({"hidden": (1 << 40,)}, "expected 1 to 4,096"),
        ({"attention_window": 0}, "attention_window is 0, expected 1 to 4,096"),
        ({"stride": (2, 0)}, r"stride is \(2, 0\), expected 1 to 4,096"),
        ({"kernel": (5, 130)}, "a clip's 100 frames give no step; shorten it or set attention_window"),
        ({"attention_units": -3}, "attention_units is -3, expected 1 to 4,096"),
        ({"kernel": (41, 20)}, r"kernel is \(41, 20\), expected at most 40 bins \(n_mels // pooling\) high"),
        ({"pooling": (9, 1), "kernel": (5, 20)}, r"kernel is \(5, 20\), expected at most 4 bins"),
        ({"pooling": (1, 6)}, "a clip's 100 frames give no step"),
        ({"cell": "lstm"}, "cell is 'lstm', expected gru or minimal or fast"),
        ({"convolution": "deep"}, "convolution is 'deep', expected full or separable"),
        ({"attention": "first"}, "attention is 'first', expected additive or query or mean or last"),
        ({"attention": "last", "attention_units": 4}, "attention_units is 4, expected none: attention is last"),
        (
            {"attention": "mean", "attention_window": 12},
            "attention_window is 12, expected at most a clip's 11 steps",
        ),
        ({"rank": 0}, "rank is 0, expected 1 to 4,096"),
        ({"dropout": 1.0}, "dropout is 1.0, expected 0 up to, not including, 1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(setting: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CrnnConfig(**setting)


@pytest.mark.parametrize("name", CHEAPER)
def test_the_configuration_knows_when_the_first_output_comes(name: str) -> None:
    config = CHEAPER[name]
    frames = torch.zeros(1, config.n_mels, config.first_step_frames + 2 * config.step_frames)
    assert Crnn(config)(frames).shape[-1] == 3
    assert Crnn(config)(frames[..., : config.first_step_frames - 1]).shape[-1] == 0


def test_the_mean_of_a_clips_steps_comes_at_its_end() -> None:
    config = replace(STAGE_2, attention="mean", frames_per_clip=50)
    network = seeded(lambda: Crnn(config)).double()
    x = clips()[..., :50]
    steps = replace(config, attention="last")
    each = Crnn(steps).double()
    each.load_state_dict(network.state_dict())
    hidden = each.gru(each.conv(x.unsqueeze(1)).flatten(1, 2))
    assert network(x).shape == (3, 2, 1)
    torch.testing.assert_close(network(x), network.classifier(hidden.mean(dim=-1, keepdim=True)), **EXACT)
    torch.testing.assert_close(each(x), each.classifier(hidden), **EXACT)


def test_a_projection_to_few_values_is_a_first_layer_of_low_rank() -> None:
    """W_ih of the whole is W_ih of the layer times the projection; its bias joins that of the layer."""
    low = seeded(lambda: Crnn(replace(STAGE_2, rank=3))).double()
    full = Crnn(STAGE_2).double()
    weights = low.state_dict()
    reduce, bias = weights.pop("reduce.weight"), weights.pop("reduce.bias")
    weights["gru.0.bias_ih"] = weights["gru.0.bias_ih"] + weights["gru.0.weight_ih"] @ bias
    weights["gru.0.weight_ih"] = weights["gru.0.weight_ih"] @ reduce
    full.load_state_dict(weights)
    torch.testing.assert_close(low(clips()), full(clips()), **EXACT)


def test_a_separable_convolution_is_a_full_one_with_kernels_of_rank_one() -> None:
    separable = seeded(lambda: Crnn(replace(STAGE_2, convolution="separable"))).double()
    full = Crnn(STAGE_2).double()
    weights = separable.state_dict()
    time, bias = weights.pop("depthwise.weight"), weights.pop("depthwise.bias")
    weights["conv.bias"] = bias + time.sum(dim=(1, 2, 3)) * weights["conv.bias"]
    weights["conv.weight"] = weights["conv.weight"] * time
    full.load_state_dict(weights)
    torch.testing.assert_close(separable(clips()), full(clips()), **EXACT)


@pytest.mark.parametrize(
    "change", [{"cell": "fast"}, {"rank": 4}, {"attention": "query"}, {"convolution": "separable"}], ids=str
)
def test_the_reference_refuses_layers_that_it_does_not_have(change: dict[str, object]) -> None:
    name, value = next(iter(change.items()))
    with pytest.raises(ModelError, match=f"a network with {name} = {value}: the reference's has {name} = "):
        ReferenceCrnn(Crnn(replace(STAGE_2, **change)))
