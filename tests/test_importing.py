"""Checkpoints of others come in as weights, and what else they hold stays outside."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as from_safetensors

from contract import seeded
from hark.errors import ModelFileError
from hark.network.crnn import PUBLISHED, Crnn
from hark.network.reference import ReferenceCrnn, from_reference
from hark.storage import importing
from hark.storage.importing import import_checkpoint
from hark.storage.model_files import LARGEST_BYTES
from peak_memory import allocating_at_most


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        """What a careless reader would execute."""
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def reference() -> ReferenceCrnn:
    """The smallest of the reference's networks, on `nn.GRU`, with random weights."""
    return seeded(lambda: ReferenceCrnn(Crnn(PUBLISHED["stage-2"]))).eval()


def saved(content: Any, path: Path) -> Path:
    """A checkpoint with some content."""
    torch.save(content, path)
    return path


def test_a_published_checkpoint_runs_here_with_equal_logits(reference: ReferenceCrnn, tmp_path: Path) -> None:
    spotter = import_checkpoint(saved(reference.state_dict(), tmp_path / "model.pth"), keyword="sheila")
    waveforms = seeded(lambda: 0.1 * torch.randn(3, 16_000))
    with torch.no_grad():
        expected = reference(spotter.features(waveforms))
        torch.testing.assert_close(spotter(waveforms)[..., -1], expected, atol=1e-5, rtol=0)
    assert spotter.config.keyword == "sheila"
    assert not spotter.training


@pytest.mark.parametrize("wrapper", importing.WRAPPERS)
@pytest.mark.parametrize("network", PUBLISHED)
def test_weights_come_in_bare_or_wrapped_for_each_published_network(
    network: str, wrapper: str, tmp_path: Path
) -> None:
    """What the helper does, here in this process."""
    weights = ReferenceCrnn(Crnn(PUBLISHED[network])).state_dict()
    bare = importing._read_weights(saved(weights, tmp_path / "bare.pth"))
    wrapped = importing._read_weights(saved({"epoch": 3, wrapper: weights}, tmp_path / "wrapped.pth"))
    assert wrapped == bare
    built = from_reference(from_safetensors(bare))
    assert built.config.hidden == PUBLISHED[network].hidden
    assert built.config.stride == PUBLISHED[network].stride


def test_half_precision_weights_come_in_as_float32(reference: ReferenceCrnn, tmp_path: Path) -> None:
    path = saved(reference.half().state_dict(), tmp_path / "half.pth")
    assert {t.dtype for t in from_safetensors(importing._read_weights(path)).values()} == {torch.float32}


def test_a_trap_in_a_checkpoint_is_refused_and_never_sprung(tmp_path: Path, reference: ReferenceCrnn) -> None:
    canary = tmp_path / "canary"
    path = saved({**reference.state_dict(), "optimizer": Trap(canary)}, tmp_path / "trap.pth")
    with pytest.raises(ModelFileError) as caught:
        import_checkpoint(path, keyword="x")
    assert not canary.exists()
    assert (
        str(caught.value)
        == f"{path}: holds something else than weights; expected a PyTorch state dict of plain tensors"
    )


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<!doctype html>\n<html>404</html>", id="a web page"),
        pytest.param(b"PK\x03\x04" + bytes(100), id="a broken zip"),
        pytest.param(b"\x80\x02cos\nsystem\n(S'true'\ntR.", id="a bare pickle that calls"),
        pytest.param(bytes(range(256)) * 40, id="any bytes"),
    ],
)
def test_what_is_no_checkpoint_is_told_in_one_line_without_bad_advice(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(Exception) as caught:
        importing._read_weights(path)
    said = importing._reason(caught.value)  # type: ignore[arg-type]
    assert said
    assert "\n" not in said
    assert "weights_only" not in said


def test_a_truncated_checkpoint_is_not_read(tmp_path: Path, reference: ReferenceCrnn) -> None:
    path = saved(reference.state_dict(), tmp_path / "model.pth")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises((OSError, RuntimeError)):
        importing._read_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"a": 1}}])
def test_a_file_without_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a state dict"):
        importing._read_weights(saved(content, tmp_path / "model.pth"))


def test_weights_of_another_network_are_refused_with_the_files_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_weights_by_helper", lambda path: {"fc.weight": torch.zeros(2, 3)})
    path = tmp_path / "other.pth"
    path.write_bytes(b"PK\3\4")
    with pytest.raises(ModelFileError, match=r"other.pth: not the reference's CRNN .*expected conv\.0\.\*, gru"):
        import_checkpoint(path, keyword="x")


def test_a_missing_file_and_one_of_absurd_size_are_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none.pth: cannot be read \(No such file or directory\)"):
        import_checkpoint(tmp_path / "none.pth", keyword="x")
    huge = tmp_path / "huge.pth"
    with huge.open("wb") as file:
        file.truncate(LARGEST_BYTES + 1)
    with pytest.raises(ModelFileError, match="16,777,217 bytes, expected at most 16,777,216"):
        import_checkpoint(huge, keyword="x")


def test_one_tensor_that_claims_a_huge_layer_is_refused_before_the_layer_is_made() -> None:
    weights = ReferenceCrnn(Crnn(PUBLISHED["stage-2"])).state_dict()
    layers = {f"gru.weight_hh_l{index}": torch.zeros(1, 4096) for index in range(16)}
    inputs = {f"gru.weight_ih_l{index}": torch.zeros(1, 1) for index in range(16)}
    with allocating_at_most(1 << 20), pytest.raises(ModelFileError, match="not the reference's CRNN"):
        from_reference({**weights, **layers, **inputs})


def test_a_file_of_a_billion_views_of_one_number_is_refused(tmp_path: Path) -> None:
    path = saved({"conv.0.weight": torch.zeros(1).expand(10**9)}, tmp_path / "views.pth")
    with pytest.raises(ValueError, match=r"holds 1,000,000,000 numbers, more than the 4,194,304 that a model may"):
        importing._read_weights(path)


def test_a_helper_that_hangs_or_dies_is_an_error_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"PK\3\4")
    interpreter = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(interpreter))
    monkeypatch.setattr(importing, "LIMITS", replace(importing.LIMITS, answer_s=0.2))
    greeting = r"printf '\002\000\000\000\000\000\000\000\000\000\000\000{}'"
    for script, said in (("kill -9 $$", r"crashed \(SIGKILL\)"), ("exec sleep 9", "gave no answer within 0.2 s")):
        interpreter.write_text(f"#!/bin/sh\n{greeting}\n{script}\n")
        interpreter.chmod(0o755)
        with pytest.raises(ModelFileError, match=f"model.pth: the helper that reads it {said}; expected a"):
            import_checkpoint(path, keyword="x")
