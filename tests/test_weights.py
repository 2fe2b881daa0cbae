"""Weights from anywhere: those that were saved, or one reason why there are none."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors

from hark.network.weights import LARGEST_HEADER_BYTES, check_header_length, read_weights


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5), st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False))
    )
)
def test_what_was_saved_is_read(numbers: dict[str, list[float]]) -> None:
    weights = {name: torch.tensor(values) for name, values in numbers.items() if name != "__metadata__"}
    read = read_weights(to_safetensors(weights))
    assert {name: tensor.tolist() for name, tensor in read.items()} == {
        name: tensor.tolist() for name, tensor in weights.items()
    }


@given(st.binary(max_size=64))
def test_bytes_that_are_no_weights_have_a_reason(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_weights(content)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_the_tensor_that_is_not_finite_is_named(number: float) -> None:
    weights = {"good": torch.ones(3), "conv.bias": torch.tensor([0.0, number])}
    with pytest.raises(ValueError, match=r"^conv\.bias holds NaN or infinite numbers"):
        read_weights(to_safetensors(weights))


@pytest.mark.parametrize("dtype", ["F4", "F8_E4M3", "F8_E8M0"])
def test_numbers_that_torch_does_not_know_are_refused(dtype: str) -> None:
    """Or cannot tell the finite ones of: it raises a `KeyError` or a `NotImplementedError`."""
    header = json.dumps({"w": {"dtype": dtype, "shape": [2], "data_offsets": [0, 1 if dtype == "F4" else 2]}})
    with pytest.raises(ValueError, match=r"F4|F8_E8M0|Float8_e4m3fn"):
        read_weights(len(header).to_bytes(8, "little") + header.encode() + bytes(1 if dtype == "F4" else 2))


def test_a_header_may_be_a_mebibyte_long_and_no_longer() -> None:
    check_header_length(LARGEST_HEADER_BYTES.to_bytes(8, "little"))
    with pytest.raises(ValueError, match="its header would be 1,048,577 bytes long"):
        read_weights((LARGEST_HEADER_BYTES + 1).to_bytes(8, "little"))
