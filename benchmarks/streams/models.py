"""The files to be measured: the reference's networks, untrained, for training changes no cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hark.network.crnn import BASE, STAGE_2, CrnnConfig
from hark.network.spotter import Spotter, SpotterConfig, estimate_normalization
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_layers import Affine, FloatMatrix, Linear, MeanPooling
from hark.packed.packed_model import PackedModel
from hark.shipping.model_packing import pack
from hark.shipping.onnx import export_onnx
from hark.shrinking.integer_quantization import calibrate, quantize_to_integers
from hark.storage.model_files import to_bytes

NETWORKS = {"base": BASE, "stage 2": STAGE_2}
FORMS = ("float32", "int8")
REFERENCE = LogMelConfig()
FRONT_ENDS = {
    "the reference's": REFERENCE,
    "a frame every 12.5 ms": replace(REFERENCE, hop_length=200),
    "a frame every 15 ms": replace(REFERENCE, hop_length=240),
    "a frame every 20 ms": replace(REFERENCE, hop_length=320),
    "FFT of 512": replace(REFERENCE, n_fft=512),
    "FFT of 320": replace(REFERENCE, n_fft=320),
    "FFT of 256": replace(REFERENCE, n_fft=256),
    "20 bands": replace(REFERENCE, n_mels=20),
    "8 kHz": LogMelConfig(sample_rate=8_000, n_fft=200, hop_length=80),
    "8 kHz, 20 bands, a frame every 20 ms": LogMelConfig(sample_rate=8_000, n_fft=200, hop_length=160, n_mels=20),
}


def write_networks(folder: Path) -> None:
    """Both networks in every form: `stage-2-float32.hark`, `stage-2-int8.hark`, `stage-2.safetensors`, ..."""
    for name, config in NETWORKS.items():
        model, sound = spotter(config, REFERENCE)
        stem = name.replace(" ", "-")
        (folder / f"{stem}-float32.hark").write_bytes(packing.to_bytes(pack(model)))
        (folder / f"{stem}-int8.hark").write_bytes(in_integers(model, sound))
        (folder / f"{stem}.safetensors").write_bytes(to_bytes(model))
        export_onnx(model, folder / f"{stem}.onnx")


def write_front_ends(folder: Path) -> None:
    """For each of `FRONT_ENDS`, by its number: `whole-0.hark`, the stage-2 network on it, and `alone-0.hark`."""
    for number, settings in enumerate(FRONT_ENDS.values()):
        model, sound = spotter(STAGE_2, settings)
        (folder / f"whole-{number}.hark").write_bytes(in_integers(model, sound))
        (folder / f"alone-{number}.hark").write_bytes(packing.to_bytes(front_end_alone(settings)))


def spotter(network: CrnnConfig, settings: LogMelConfig) -> tuple[Spotter, torch.Tensor]:
    """An untrained spotter, and the noise that its log-mels are normalised on."""
    torch.manual_seed(0)
    network = replace(network, n_mels=settings.n_mels)
    model = Spotter(SpotterConfig(keyword="word", network=network, features=settings)).eval()
    sound = 0.1 * torch.randn(8, settings.sample_rate)
    estimate_normalization(model, sound)
    return model, sound


def in_integers(model: Spotter, sound: torch.Tensor) -> bytes:
    """The file of a spotter, calibrated but not trained on."""
    return packing.to_bytes(pack(quantize_to_integers(model, calibrate(model, sound))))


def front_end_alone(settings: LogMelConfig) -> PackedModel:
    """A front end and next to nothing: the mean of all bands over eight frames."""
    ones, zeros = np.ones(1, np.float32), np.zeros(1, np.float32)
    return PackedModel(
        arithmetic="float32",
        front_end=settings,
        layers=(
            Affine(ones, zeros),
            MeanPooling((settings.n_mels, 8), (1, 8)),
            Linear(FloatMatrix(ones[:, None], zeros)),
        ),
        labels=("",),
    ).check()
