from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contract import check_streaming_contract, chunkings, seeded, small_spotter, spotter
from hark.errors import ConfigError
from hark.network.crnn import BASE, PUBLISHED, STAGE_2, Crnn, CrnnConfig
from hark.network.features import LogMelConfig
from hark.network.spotter import (
    MOST_VALUES_PER_SECOND,
    Spotter,
    SpotterConfig,
    estimate_normalization,
    keyword_score,
    two_logits,
    with_network,
)


def second(*, seed: int = 0) -> Tensor:
    """A second of noise for each row of a batch, in float64."""
    return seeded(lambda: 0.1 * torch.randn(2, 16_000, dtype=torch.float64), seed=seed)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_spotters_keep_the_contract_on_a_second_of_sound(name: str, data: st.DataObject) -> None:
    check_streaming_contract(spotter(PUBLISHED[name]), second(), data.draw(chunkings(16_000)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_spotters_keep_the_contract_in_chunks_of_ten_milliseconds(name: str) -> None:
    check_streaming_contract(spotter(PUBLISHED[name]), second(), [160] * 100)


@pytest.mark.parametrize(("network", "first", "hop"), [(BASE, 3_200, 1_280), (STAGE_2, 3_200, 960)])
def test_outputs_come_as_soon_as_their_sound_is_complete(network: CrnnConfig, first: int, hop: int) -> None:
    model = spotter(network)
    assert (model.first_step_samples, model.step_samples) == (first, hop)
    for count in range(3):
        complete = first + count * hop
        assert model(torch.zeros(1, complete - 1)).shape[-1] == count
        assert model(torch.zeros(1, complete)).shape[-1] == count + 1


def test_a_carried_state_is_not_a_fresh_one() -> None:
    """The two protocols differ, which is why both are always told apart."""
    model = spotter(STAGE_2).double()
    _, lived_in = model.step(second(seed=1), model.initial_state(2))
    carried, _ = model.step(second(), lived_in)
    assert (carried[..., -1] - model(second())[..., -1]).abs().max() > 1e-6


def test_the_score_is_the_difference_of_the_logits_in_float64() -> None:
    logits = torch.tensor([[[1.0, 0.0], [3.0, -2.0]]])
    assert keyword_score(logits).tolist() == [[2.0, -2.0]]
    assert keyword_score(logits).dtype == torch.float64


def test_the_score_does_not_saturate_where_posteriors_do() -> None:
    logits = torch.tensor([[[0.0, 0.0], [90.0, 91.0]]])
    assert logits.softmax(dim=1)[0, 1].tolist() == [1.0, 1.0]
    assert keyword_score(logits).tolist() == [[90.0, 91.0]]


def test_the_score_of_a_single_logit_is_that_logit() -> None:
    logits = torch.tensor([[[1.0, -2.0]]])
    assert keyword_score(logits).tolist() == [[1.0, -2.0]]
    assert keyword_score(logits).dtype == torch.float64
    assert torch.equal(two_logits(logits).softmax(dim=1)[:, 1], logits[:, 0].sigmoid())


@pytest.mark.parametrize(("classes", "labels"), [(1, ("happy",)), (2, ("", "happy"))])
def test_the_last_label_is_the_keyword(classes: int, labels: tuple[str, ...]) -> None:
    config = replace(STAGE_2, classes=classes)
    assert SpotterConfig(keyword="happy", network=config).labels == labels
    assert spotter(config)(torch.zeros(1, 16_000)).shape[1] == classes


def test_a_network_of_three_classes_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="a network of 3 classes, expected 2, else and keyword, or 1, the keyword"
    ):
        SpotterConfig(keyword="happy", network=CrnnConfig(classes=3))


def test_one_scale_for_all_bands_gives_mean_zero_and_deviation_one_over_all() -> None:
    config = small_spotter().config
    model = Spotter(replace(config, normalization_bands="one"))
    assert model.normalize.scale.shape == model.normalize.shift.shape == (1,)
    sound = seeded(lambda: torch.randn(4, 800))
    estimate_normalization(model, sound)
    values = model.normalize(model.features(sound))
    assert float(values.mean().abs()) < 1e-4
    assert float(values.std()) == pytest.approx(1, abs=1e-4)


def test_estimated_normalization_gives_mean_zero_and_deviation_one_in_each_band() -> None:
    model = small_spotter()
    sound = seeded(lambda: torch.randn(4, 800))
    estimate_normalization(model, sound)
    bands = model.normalize(model.features(sound)).transpose(0, 1).flatten(1)
    varied = model.features(sound).std(dim=(0, 2)) > 1e-3
    assert varied.sum() >= 4
    torch.testing.assert_close(bands.mean(dim=1), torch.zeros(8), rtol=0, atol=1e-4)
    torch.testing.assert_close(bands.std(dim=1)[varied], torch.ones(8)[varied], rtol=0, atol=1e-4)


def test_a_band_that_never_changes_is_not_blown_up() -> None:
    model = small_spotter()
    estimate_normalization(model, torch.zeros(2, 800))
    assert model.normalize(model.features(torch.zeros(1, 80))).abs().max() < 1e-3


def test_another_network_comes_behind_the_same_front_end() -> None:
    model = spotter(BASE).double()
    network = seeded(lambda: Crnn(STAGE_2)).double().eval()
    other = with_network(model, network)
    assert other.config.network == STAGE_2
    assert not other.training
    expected = network(model.normalize(model.features(second())))
    torch.testing.assert_close(other(second()), expected, rtol=0, atol=0)
    assert other.normalize.scale.data_ptr() != model.normalize.scale.data_ptr()


def test_a_network_for_other_bands_than_the_front_end_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="40 mel bands behind a front end of 20: set both n_mels"):
        SpotterConfig(keyword="happy", features=LogMelConfig(n_mels=20))


def test_a_spotter_is_a_chain_of_three() -> None:
    model = Spotter(SpotterConfig(keyword="happy"))
    assert [name for name, _ in model.layers()] == ["features", "normalize", "network"]


@pytest.mark.parametrize(
    ("features", "network"),
    [
        (LogMelConfig(n_fft=4096, hop_length=1), CrnnConfig()),
        (LogMelConfig(), CrnnConfig(channels=4096, stride=(1, 1))),
        (LogMelConfig(), CrnnConfig(stride=(2, 1), attention_window=4096)),
        (LogMelConfig(sample_rate=384_000, hop_length=4), CrnnConfig()),
    ],
)
def test_settings_that_make_too_much_of_a_second_of_sound_are_refused(
    features: LogMelConfig, network: CrnnConfig
) -> None:
    """They would cost a file nothing, and whoever opens it gigabytes."""
    with pytest.raises(ConfigError, match=r"numbers for a second of sound, expected at most 1,048,576"):
        SpotterConfig(keyword="x", features=features, network=network)


def test_the_published_networks_take_a_twentieth_of_what_they_may() -> None:
    for network in PUBLISHED.values():
        assert SpotterConfig(keyword="x", network=network).values_per_second < 0.06 * MOST_VALUES_PER_SECOND


def test_a_spotter_tells_a_keyword_from_all_else_and_nothing_more() -> None:
    with pytest.raises(ConfigError, match="a network of 3 classes, expected 2"):
        SpotterConfig(keyword="x", network=CrnnConfig(classes=3))
