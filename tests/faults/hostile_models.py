"""Files that are called models and are meant to harm: F25 of the table of faults, one function for each."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch

from hark.network.crnn import PUBLISHED, Crnn
from hark.network.reference import ReferenceCrnn


class Trap:
    """Unpickled, it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        """What a careless reader would execute."""
        return os.system, (f"touch {self.canary}",)


class Place(NamedTuple):
    """Where hostile files are made, and what they would make if they could."""

    folder: Path
    canary: Path

    def file(self, name: str, content: bytes) -> Path:
        """A file of some content."""
        path = self.folder / name
        path.write_bytes(content)
        return path


Hostile = Callable[[Place], Path]
HOSTILE: dict[str, Hostile] = {}


def hostile(make: Hostile) -> Hostile:
    """Enter what makes a hostile file into `HOSTILE` under its name."""
    HOSTILE[make.__name__] = make
    return make


def bare_pickle(canary: Path) -> bytes:
    """`os.system("touch …")`, written by hand."""
    return (
        b"\x80\x02cos\nsystem\nX"
        + len(told := f"touch {canary}".encode()).to_bytes(4, "little")
        + told
        + b"\x85R."
    )


def archive(content: Any) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@hostile
def pickle_named_safetensors(at: Place) -> Path:
    return at.file("pickle.safetensors", bare_pickle(at.canary))


@hostile
def pickle_named_pt(at: Place) -> Path:
    return at.file("pickle.pt", bare_pickle(at.canary))


@hostile
def torch_archive_named_safetensors(at: Place) -> Path:
    return at.file("archive.safetensors", archive({"network.conv.bias": Trap(at.canary)}))


@hostile
def torch_archive_named_pt(at: Place) -> Path:
    return at.file("archive.pt", archive({"network.conv.bias": Trap(at.canary)}))


@hostile
def distributed_checkpoint(at: Place) -> Path:
    """PyTorch's DCP: a folder whose `.metadata` is a pickle."""
    folder = at.folder / "distributed"
    folder.mkdir()
    (folder / ".metadata").write_bytes(bare_pickle(at.canary))
    (folder / "__0_0.distcp").write_bytes(archive(torch.zeros(3)))
    return folder


@hostile
def metadata_of_a_distributed_checkpoint(at: Place) -> Path:
    return at.file(".metadata", bare_pickle(at.canary))


TARGET = "model:\n  _target_: os.system\n  command: touch {canary}\n"


@hostile
def nemo_archive(at: Place) -> Path:
    """CVE-2025-23304: a configuration that names what is to be called."""
    path = at.folder / "model.nemo"
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("model_config.yaml", TARGET.format(canary=at.canary).encode()),
            ("model_weights.ckpt", archive({"encoder.weight": Trap(at.canary)})),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@hostile
def yaml_that_names_what_to_call(at: Place) -> Path:
    return at.file("model.yaml", TARGET.format(canary=at.canary).encode())


@hostile
def yaml_of_aliases(at: Place) -> Path:
    """A billion laughs: lists of nine references to lists of nine references."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return at.file("aliases.yaml", "\n".join(lines).encode())


@hostile
def lightning_checkpoint(at: Place) -> Path:
    """One that names its own instantiator, with the weights of another network."""
    named = {"_instantiator": "os.system", "command": f"touch {at.canary}", "weight": 3}
    content = {"state_dict": {"layer.weight": torch.zeros(3)}, "hyper_parameters": named}
    return at.file("lightning.ckpt", archive({**content, "pytorch-lightning_version": "2.6.6"}))


@hostile
def lightning_checkpoint_with_a_trap(at: Place) -> Path:
    return at.file("trap.ckpt", archive({"state_dict": {}, "callbacks": Trap(at.canary)}))


FACTS = {"labels": ["", "x"], "sample_rate": 16_000, "step_samples": 1280, "first_step_samples": 1440}


def onnx_model(**tensor: Any) -> bytes:
    """An ONNX model of one node of an unknown kind, and one tensor, which says that it is one of ours."""
    held = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, **tensor)
    node = onnx.helper.make_node("Execute", ["w"], ["y"], domain="evil")
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output], initializer=[held]))
    told = {f"hark.{name}": json.dumps(value) for name, value in FACTS.items()}
    onnx.helper.set_model_props(model, {"hark.takes": "waveform", **told})
    return bytes(model.SerializeToString())


def outside(location: str) -> dict[str, Any]:
    """A tensor that lies in another file."""
    entry = onnx.StringStringEntryProto(key="location", value=location)
    return {"dims": [4], "data_location": onnx.TensorProto.EXTERNAL, "external_data": [entry]}


@hostile
def onnx_with_data_outside(at: Place) -> Path:
    return at.file("outside.onnx", onnx_model(**outside("../../../../etc/passwd")))


@hostile
def onnx_with_data_behind_a_link(at: Place) -> Path:
    (at.folder / "weights.bin").symlink_to("/etc/passwd")
    return at.file("link.onnx", onnx_model(**outside("weights.bin")))


@hostile
def onnx_of_a_billion_elements(at: Place) -> Path:
    return at.file("billion.onnx", onnx_model(dims=[10**9], raw_data=b"\0" * 4))


@hostile
def link_named_safetensors(at: Place) -> Path:
    path = at.folder / "link.safetensors"
    path.symlink_to("/etc/passwd")
    return path


@hostile
def tflite_of_random_bytes(at: Place) -> Path:
    return at.file("model.tflite", b"\x1c\0\0\0TFL3" + random.Random(0).randbytes(5000))


@hostile
def json_nested_a_million_times(at: Place) -> Path:
    return at.file("nested.json", b'{"a":' * 10**6)


@hostile
def archive_of_a_billion_views(at: Place) -> Path:
    return at.file("views.pth", archive({"conv.0.weight": torch.zeros(1).expand(10**9)}))


@hostile
def archive_that_unpacks_to_a_gibibyte(at: Place) -> Path:
    """What says 2^18 numbers in `torch.save`'s archive says 2^28 here, and their zeros are deflated 1000:1."""
    source = zipfile.ZipFile(io.BytesIO(archive({"conv.0.weight": torch.zeros(1 << 18)})))
    path = at.folder / "deflated.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            content = source.read(name).replace((1 << 18).to_bytes(4, "little"), (1 << 28).to_bytes(4, "little"))
            with packed.open(name, "w") as file:
                for _ in range(1024 if name.endswith("/data/0") else 1):
                    file.write(content)
    return path


@hostile
def weights_that_claim_a_huge_layer(at: Place) -> Path:
    """16 rows of 4096 numbers, each of which would make a layer of 4096 units: 6 GiB."""
    weights = ReferenceCrnn(Crnn(PUBLISHED["stage-2"])).state_dict()
    for layer in range(16):
        weights |= {f"gru.weight_hh_l{layer}": torch.zeros(1, 4096), f"gru.weight_ih_l{layer}": torch.zeros(1, 1)}
    return at.file("claims.pth", archive(weights))
