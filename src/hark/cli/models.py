"""`hark quantize`, `import`, `cost`: what needs a model and nothing else."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hark.cli.options import AS_JSON, MODEL, PATH, model_file, print_json

if TYPE_CHECKING:
    from hark.proof.cost import Cost


@click.command()
@MODEL
@click.option("--bits", type=click.IntRange(2, 8), default=8, show_default=True, help="Of each weight.")
@click.option("--out", type=PATH, required=True, help="The quantised model's file.")
def quantize(model: Path, bits: int, out: Path) -> None:
    """Put every weight of MODEL (a file or a run) on a grid of BITS, one scale per output row.

    \b
    Example:
      $ hark quantize runs/student --out student-int8.safetensors
      student-int8.safetensors: 5,004 bytes, 15,380 before (3.1x smaller)
    """
    from hark.files import write_atomically
    from hark.shrinking.quantization import quantize as to_grid
    from hark.storage.model_files import load, to_bytes

    source = model_file(model)
    content = to_bytes(to_grid(load(source), bits=bits))
    write_atomically(out, content)
    before = source.stat().st_size
    click.echo(f"{out}: {len(content):,} bytes, {before:,} before ({before / len(content):.1f}x smaller)")


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
    """What MODEL (a file, a run, or base, stage-1, stage-2) costs, layer by layer.

    \b
    Example:
      $ hark cost stage-2
    """
    from hark.network.crnn import PUBLISHED
    from hark.network.spotter import Spotter, SpotterConfig
    from hark.proof.cost import cost_of
    from hark.storage.model_files import load

    file_bytes = None
    if model in PUBLISHED:
        spotter = Spotter(SpotterConfig(keyword="keyword", network=PUBLISHED[model]))
    else:
        path = model_file(Path(model))
        spotter, file_bytes = load(path), path.stat().st_size
    counted = cost_of(spotter)
    if as_json:
        print_json(counted.as_dict() | {"file_bytes": file_bytes})
    else:
        _print_cost(counted, file_bytes)


def _print_cost(counted: Cost, file_bytes: int | None) -> None:
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
        ("file", file_bytes, "bytes"),
        ("state of a stream", counted.state_bytes, "bytes"),
        ("first decision", counted.first_decision_ms, "ms after the first sound"),
        ("latency", counted.latency_ms, "ms at most from a sound to the first decision that heard it"),
    ):
        if number is not None:
            click.echo(f"{name:<20}{number:>12,.0f} {meaning}".rstrip())
