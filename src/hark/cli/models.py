"""`hark quantize`, `import`, `cost`: what needs a model and nothing else."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hark.cli.options import AS_JSON, MODEL, PATH, model_file, print_json
from hark.errors import UsageError
from hark.models.shelf import SUFFIX, find, shelf
from hark.packed import packing
from hark.packed.packed_cost import Cost, cost_of_packed
from hark.packed.packed_model import PackedModel
from hark.runtime import Model

if TYPE_CHECKING:
    from hark.network.spotter import Spotter
    from hark.shrinking.quantization import Scales

MODEL_SUFFIX = ".safetensors"
CALIBRATION_PIECES = 512
"""Each as long as a clip was in training."""


@click.command()
@MODEL
@click.option("--sound", type=PATH, help="A folder of recordings such as the model will hear.")
@click.option("--bits", type=click.IntRange(2, 8), default=8, show_default=True, help="Of each weight.")
@click.option(
    "--scales",
    type=click.Choice(["row", "matrix"]),
    default="row",
    show_default=True,
    help="One per output row, or one per matrix.",
)
@click.option("--out", type=PATH, required=True, help="The quantised model's file.")  # fmt: skip
def quantize(model: Path, sound: Path | None, bits: int, scales: Scales, out: Path) -> None:
    """Put every weight of MODEL (a file or a run) on a grid of BITS, one scale per output row.

    With --sound all that lies between the weights becomes integers too, which the engine computes with: ranges are
    measured on up to 512 clips from all over the recordings. Without, only the weights are quantised and the
    arithmetic remains float32: such a model can be judged, but not packed. Of integers --scales matrix makes a
    smaller .hark file, at some cost in precision.

    \b
    Example:
      $ hark quantize runs/student --sound recordings --out student-int8.safetensors
      student-int8.safetensors: 6,392 bytes, 14,332 before (2.2x smaller)
    """
    from hark.files import write_atomically
    from hark.storage.model_files import load, to_bytes

    if out.suffix != MODEL_SUFFIX:
        raise UsageError(
            f"--out {out}: expected a name that ends in {MODEL_SUFFIX}; hark pack makes a .hark file of it"
        )
    if sound is None and scales != "row":
        raise UsageError(
            f"--scales {scales}: expected --sound FOLDER beside it, for only integers have such scales"
        )
    source = model_file(model)
    spotter = load(source)
    content = to_bytes(_to_grid(spotter, bits) if sound is None else _to_integers(spotter, sound, bits, scales))
    write_atomically(out, content)
    before = source.stat().st_size
    click.echo(f"{out}: {len(content):,} bytes, {before:,} before ({before / len(content):.1f}x smaller)")


def _to_grid(model: Spotter, bits: int) -> Spotter:
    from hark.shrinking.quantization import quantize as to_grid

    return to_grid(model, bits=bits)


def _to_integers(model: Spotter, sound: Path, bits: int, scales: Scales) -> Spotter:
    import torch

    from hark.shrinking.integer_quantization import calibrate, quantize_to_integers
    from hark.sound.pieces import pieces

    rate, clip_s = model.config.features.sample_rate, model.config.clip_s
    heard = pieces(sound, most=CALIBRATION_PIECES, sample_rate=rate, piece_s=clip_s)
    return quantize_to_integers(model, calibrate(model, torch.from_numpy(heard)), bits=bits, scales=scales)


@click.command(name="import")
@click.argument("checkpoint", type=PATH)
@click.option("--keyword", required=True, help="What the checkpoint spots.")
@click.option("--out", type=PATH, required=True, help="The model's file.")
def import_(checkpoint: Path, keyword: str, out: Path) -> None:
    """Bring in a PyTorch CHECKPOINT of the reference's network; only its weights are read, in a helper process.

    \b
    Example:
      $ hark import model.pth --keyword sheila --out sheila.safetensors
      sheila.safetensors: 70,443 parameters, spots 'sheila'
    """
    from hark.files import write_atomically
    from hark.storage.importing import import_checkpoint
    from hark.storage.model_files import to_bytes

    model = import_checkpoint(checkpoint, keyword=keyword)
    write_atomically(out, to_bytes(model))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    click.echo(f"{out}: {parameters:,} parameters, spots {keyword!r}")


@click.command()
@click.argument("model")
@AS_JSON
def cost(model: str, as_json: bool) -> None:
    """What MODEL (a file, a run, a name; or base, stage-1, stage-2) costs, layer by layer, and on a device.

    \b
    Example:
      $ hark cost stage-2
    """
    path = shelf().get(model, Path(model))
    if path.suffix == SUFFIX:
        opened = Model(path)
        counted = cost_of_packed(packing.from_bytes(opened.file), state_bytes=opened.device_memory.state)
        forms = [opened]
    else:
        counted, forms = _of_spotter(model)
    files = {"integers" if file.is_integer else "float32": _values(file) for file in forms}
    if as_json:
        print_json(counted.as_dict() | {"files": files})
    else:
        _print_cost(counted)
        _print_files(files)


def _of_spotter(name: str) -> tuple[Cost, list[Model]]:
    """The cost of a model in torch, and the `.hark` files that there can be of it."""
    from hark.network.crnn import PUBLISHED
    from hark.network.spotter import Spotter, SpotterConfig
    from hark.proof.cost import cost_of
    from hark.storage.model_files import load

    if name in PUBLISHED:
        spotter = Spotter(SpotterConfig(keyword="keyword", network=PUBLISHED[name]))
    else:
        spotter = load(model_file(find(name)))
    return cost_of(spotter), [Model(packing.to_bytes(packed)) for packed in _forms(spotter)]


def _forms(spotter: Spotter) -> Iterator[PackedModel]:
    """The model as it is and, if it is a float one, in integers: their size does not depend on calibration."""
    import torch

    from hark.shipping.model_packing import can_be_packed, pack
    from hark.shrinking.integer_quantization import calibrate, quantize_to_integers
    from hark.shrinking.quantization import is_quantized

    if can_be_packed(spotter):
        yield pack(spotter)
    if not is_quantized(spotter):
        silence = torch.zeros(1, round(spotter.config.clip_s * spotter.config.features.sample_rate))
        yield pack(quantize_to_integers(spotter, calibrate(spotter, silence)))


def _values(opened: Model) -> dict[str, int]:
    memory = opened.device_memory
    return {"file_bytes": len(opened.file), **dataclasses.asdict(memory), "ram": memory.total}


def _print_cost(counted: Cost) -> None:
    click.echo(f"{'layer':<26}{'works per':>10}{'MACs thop':>12}{'MACs':>10}{'parameters':>12}{'bytes':>9}")
    for layer in counted.layers:
        click.echo(
            f"{layer.name:<26}{layer.rhythm:>10}{layer.thop:>12,}{layer.macs:>10,}"
            f"{layer.parameters:>12,}{layer.bytes:>9,}"
        )
    click.echo()
    for name, number, meaning in (
        ("clip of 1 s", counted.per_clip("thop"), "MACs (thop 0.0.31 convention)"),
        ("", counted.per_clip("macs"), "multiplications"),
        ("second of stream", counted.per_second("thop"), "MACs (thop)"),
        ("", counted.per_second("macs"), "multiplications"),
        ("", counted.frontend_per_second, "more in the front end"),
        ("parameters", counted.parameters, ""),
        ("weights", counted.weight_bytes, "bytes"),
        ("state of a stream", counted.state_bytes, "bytes"),
        ("first decision", counted.first_decision_ms, "ms after the first sound"),
        ("latency", counted.latency_ms, "ms at most from a sound to the first decision that heard it"),
    ):
        click.echo(f"{name:<20}{number:>12,.0f} {meaning}".rstrip())


def _print_files(files: dict[str, dict[str, int]]) -> None:
    """A column for each `.hark` file that there can be."""
    click.echo()
    if not files:
        click.echo("no .hark file: only the weights are quantised")
        return
    click.echo(f"{'on a device':<20}" + "".join(f"{name:>12}" for name in files) + " bytes")
    for name, meaning in (
        ("file_bytes", "in flash"),
        ("state", "of a stream; computed, as all but the stack"),
        ("scratch", "of a step"),
        ("opened_model", ""),
        ("stack", "measured on a Cortex-M4"),
        ("ram", "state, scratch, opened model and stack"),
    ):
        label = {"file_bytes": ".hark file", "ram": "RAM"}.get(name, name.replace("_", " "))
        click.echo(
            f"{label:<20}" + "".join(f"{column[name]:>12,}" for column in files.values()) + f" {meaning}".rstrip()
        )
