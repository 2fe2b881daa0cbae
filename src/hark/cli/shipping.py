"""`hark pack`, `hark export`: a trained model as what runs elsewhere."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from hark.cli.options import MODEL, PATH, model_file, packed_model, point_options
from hark.errors import UsageError
from hark.files import write_atomically
from hark.judging.detection import OperatingPoint
from hark.models.shelf import SUFFIX
from hark.packed import packing
from hark.runtime import Model


@click.command()
@MODEL
@click.option("--out", type=PATH, required=True, help=f"The file, whose name ends in {SUFFIX}.")
@point_options
def pack(model: Path, out: Path, **point: Any) -> None:
    """Write MODEL as a .hark file: all that a stream needs from sound to detection, in a few kilobytes.

    MODEL is a run, a model.safetensors, or a .hark file that gets another operating point. Of a run, the threshold
    that its judging has found is the operating point, unless one is given.

    \b
    Example:
      $ hark pack runs/student-int8 --out happy.hark --threshold 0.8
      happy.hark: 3,644 bytes, spots 'happy' at threshold 0.8, 1 step averaged, 1 s refractory
    """
    if out.suffix != SUFFIX:
        raise UsageError(f"--out {out}: expected a name that ends in {SUFFIX}, by which hark knows its files")
    packed = packed_model(model)
    packed = dataclasses.replace(packed, operating_point=_point(packed.operating_point, point))
    opened = Model(packing.to_bytes(packed))
    write_atomically(out, opened.file)
    spotted = ", ".join(repr(label) for label in opened.labels if label)
    click.echo(f"{out}: {len(opened.file):,} bytes, spots {spotted} {_told(opened.operating_point)}")


def _point(stored: OperatingPoint | None, given: dict[str, Any]) -> OperatingPoint | None:
    """The stored operating point, but for what is given."""
    told = {name: value for name, value in given.items() if value is not None}
    if stored is None and told and "threshold" not in told:
        raise UsageError("no threshold is known for this model, expected one; give --threshold")
    return dataclasses.replace(stored or OperatingPoint(0.5), **told) if stored or told else None


def _told(point: OperatingPoint | None) -> str:
    if point is None:
        return "without an operating point"
    steps = "1 step" if point.smoothing_steps == 1 else f"{point.smoothing_steps} steps"
    return f"at threshold {point.threshold:.6g}, {steps} averaged, {point.refractory_s:g} s refractory"


@click.command()
@MODEL
@click.option("--to", "target", type=click.Choice(["onnx", "c", "wasm"]), required=True, help="What it becomes.")
@click.option("--out", type=PATH, required=True, help="The ONNX file, or a new folder.")
@click.option("--steps", type=click.IntRange(1, 64), help="onnx: steps of the network in a chunk; 1 by default.")
@click.option("--features", is_flag=True, help="onnx: a chunk holds log-mels and not sound.")
def export(model: Path, target: str, out: Path, steps: int | None, features: bool) -> None:
    """Write MODEL as an ONNX graph, as a folder of C, or as a folder for browsers.

    MODEL is a run, a model.safetensors or, for c and wasm, a .hark file; what is no .hark file is packed on the
    way. The C has no heap and no library: `make` builds a program that finds the word in WAV files, `make arm`
    objects for a Cortex-M4. An ONNX graph is written only if it gives what torch gives.

    \b
    Example:
      $ hark export happy.hark --to c --out happy-c
      happy-c: a folder of C for 'happy'; README.md tells what to do
      $ hark export runs/student --to onnx --out happy.onnx
      happy.onnx: 717,039 bytes, at most 4.8e-07 from torch
    """
    if target == "onnx":
        _export_onnx(model, out, steps or 1, features)
        return
    if steps or features:
        raise UsageError(f"--steps and --features are for --to onnx, found --to {target}; leave them out")
    packed = packed_model(model)
    spotted = ", ".join(repr(label) for label in packed.labels if label)
    if target == "c":
        from hark.shipping.c_folder import export_c

        export_c(packing.to_bytes(packed), out)
        click.echo(f"{out}: a folder of C for {spotted}; README.md tells what to do")
    else:
        from hark.shipping.wasm_page import export_wasm

        export_wasm(packing.to_bytes(packed), out)
        click.echo(f"{out}: a folder for browsers for {spotted}; README.md tells what to do")


def _export_onnx(model: Path, out: Path, steps: int, features: bool) -> None:
    from hark.shipping.onnx import export_onnx
    from hark.storage.model_files import load

    if model.suffix == SUFFIX:
        raise UsageError(f"{model}: no ONNX graph is made of a .hark file; export the run that it came from")
    difference = export_onnx(
        load(model_file(model)), out, steps=steps, takes="features" if features else "waveform"
    )
    click.echo(f"{out}: {out.stat().st_size:,} bytes, at most {difference:.1e} from torch")
