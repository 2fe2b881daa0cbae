"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from hark.errors import ModelFileError
from hark.judging.detection import OperatingPoint
from hark.models.shelf import find
from hark.packed import packing
from hark.packed.packed_model import PackedModel
from hark.record.command import Command
from hark.record.runs import MODEL_FILE, PACKED_FILE, Run
from hark.record.tracking import BACKENDS
from hark.runtime import Model, Runner
from hark.sound.inspection import LONGEST_S, MAX_BAD_SHARE, SHORTEST_S
from hark.sound.splits import SplitRule

if TYPE_CHECKING:
    from hark.learning.dataset import Source
    from hark.learning.devices import Machine

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


class ModelPath(click.ParamType[Path]):
    """A model by its path, or by the name under which it comes with hark."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """What is named, as a path."""
        return value if isinstance(value, Path) else find(value)


MODEL_PATH = ModelPath()
MODEL = click.argument("model", type=MODEL_PATH)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key; may come again."
)
TRACK = click.option(
    "--track", "trackers", type=click.Choice(sorted(BACKENDS)), multiple=True, help="Mirror to a tracker."
)


def point_options(command: F) -> F:
    """What makes an operating point, each None where it is not given; bounded as a `.hark` file bounds them."""
    for option in (
        click.option(
            "--refractory", "refractory_s", type=click.FloatRange(0, 2096), help="Seconds after a detection."
        ),
        click.option(
            "--smoothing", "smoothing_steps", type=click.IntRange(1, 4096), help="Steps that are averaged."
        ),
        click.option("--threshold", type=click.FloatRange(0, 1), help="Of the smoothed posterior."),
    ):
        command = option(command)
    return command


def corpus_options(command: F) -> F:
    """What names a corpus and the keyword in it; `source` makes it one value."""
    data = click.option("--data", "root", type=PATH, required=True, help="A folder per word, or a manifest.")
    return data(task_options(command))


def task_options(command: F) -> F:
    """What is made of a corpus: a keyword and a cut into parts."""
    for option in (
        click.option("--max-bad-share", type=click.FloatRange(0, 1), default=MAX_BAD_SHARE, show_default=True,
                     help="Go on without damaged clips up to this share."),
        click.option("--folds", type=click.IntRange(2, 100), default=5, show_default=True, help="How many folds."),
        click.option("--split", type=click.Choice(get_args(SplitRule)),
                     default="speakers", show_default=True, help="How the corpus is cut into parts."),
        click.option("--clip-s", type=click.FloatRange(SHORTEST_S, LONGEST_S), default=1.0, show_default=True,
                     help="Length that all clips are cut or padded to."),
        click.option("--noise", type=PATH, help="Background, where the corpus has no _background_noise_."),
        click.option("--cut-speech", type=click.Choice(["no", "training", "both"]), default="no",
                     help="Cut these halves of the sentences into clips as well: not the keyword."),
        click.option("--speech", type=PATH, help="Sentences without the keyword: half train, half judge."),
        click.option("--keyword", required=True, help="The word to spot."),
    ):  # fmt: skip
        command = option(command)
    return command


def machine_options(command: F) -> F:
    """What a training runs on; `machine` makes values of them."""
    for option in (
        click.option("--workers", type=click.IntRange(0, 64), default=0, show_default=True,
                     help="Processes that make batches, each with a copy of the clips; 0 is a thread."),
        click.option("--wait-device", "wait_min", type=click.FloatRange(0), metavar="MINUTES", default=0,
                     help="Wait this long for a GPU that is not there yet."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps."),
    ):  # fmt: skip
        command = option(command)
    return command


def require_device(options: dict[str, Any]) -> None:
    """Ask for the device of `machine_options` before all else is loaded, unless it is to be waited for.

    Raises:
        DeviceError: it is not there.
    """
    from hark.learning.devices import choose_device

    if not options["wait_min"]:
        choose_device(options["device"])


def machine(options: dict[str, Any]) -> Machine:
    """Take the values of `machine_options` out of a command's, when the device is there, waited for if need be.

    Raises:
        DeviceError: it is not there.
    """
    from hark.learning.devices import Machine, choose_device, wait_for_device

    device, wait_min, workers = (options.pop(name) for name in ("device", "wait_min", "workers"))
    if wait_min:
        wait_for_device(device, limit_s=60 * wait_min)
        choose_device(device)
    return Machine(device=device, workers=workers)


FOLD = click.option("--fold", type=click.IntRange(0), default=0, show_default=True, help="The fold that tests.")


def source(corpus: dict[str, Any], *, cache: Path) -> Source:
    """The values of `corpus_options` as one, decoded sound kept below `cache`."""
    from hark.learning.dataset import Source

    return Source(cache=cache / "cache", **corpus)


def this_command() -> Command | None:
    """The call of hark that is being carried out; None where a command was called without hark around it."""
    arguments = click.get_current_context().find_root().obj
    return None if arguments is None else Command(arguments, Path.cwd())


def model_file(path: Path) -> Path:
    """The model that a path names: a file, or a run's."""
    if path.is_dir():
        inner = path / MODEL_FILE
        if not inner.exists():
            raise ModelFileError(f"{path}: holds no {MODEL_FILE}; expected a finished run or a model file")
        return inner
    return path


def open_runner(path: Path) -> Runner:
    """What runs the model that a path names: of a run the file that it ships; torch where there is none.

    Raises:
        ModelFileError: there is no model.
    """
    if path.is_dir() and (path / PACKED_FILE).exists():
        path = path / PACKED_FILE
    match path.suffix:
        case ".hark":
            return Model(path)
        case ".onnx":
            from hark.shipping.onnx_runner import OnnxRunner

            return OnnxRunner(path)
        case _:
            file = model_file(path)  # before torch, which may not be there, is missed
            from hark.shipping.torch_runner import TorchRunner
            from hark.storage.model_files import load

            return TorchRunner(load(file))


def packed_model(path: Path) -> PackedModel:
    """What the `.hark` file of a model holds: the file itself, a run's, or that of a model that is packed now.

    A run's threshold, where its judging has found one, becomes the operating point.

    Raises:
        ModelFileError: there is no model.
        ModelError: only the weights of the model are quantised.
    """
    if path.is_dir() and (path / PACKED_FILE).exists():
        path = path / PACKED_FILE
    if path.suffix == ".hark":
        return packing.load(path)
    from hark.shipping.model_packing import pack
    from hark.storage.model_files import load

    return pack(load(model_file(path)), operating_point=_judged_point(path))


def _judged_point(path: Path) -> OperatingPoint | None:
    """The operating point that judging has left in a run."""
    if not path.is_dir():
        return None
    from hark.showing.run_files import read_believable

    threshold = (read_believable(Run(path), "stream.json") or {}).get("threshold")
    return OperatingPoint(threshold) if isinstance(threshold, float) else None


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(value, indent=2))
