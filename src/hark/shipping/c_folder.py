"""A model as a folder of C: the engine, the model as an array, a program that hears it in WAV files."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Any

from hark.files import new_folder
from hark.packed import packing
from hark.packed.engine_tables import c_tables
from hark.packed.packed_model import PackedModel
from hark.runtime import Model

NOT_FOR_DEVICES = ("python.c", "wasm.c", "variant.c", "variants.h", "tables.h")
"""Files of the engine that are for other ends; the tables are made anew, for the model's front end."""
README = "README.md"


def export_c(file: bytes, folder: Path) -> None:
    """Write the model of a `.hark` file as a folder of C99, whole or not at all.

    Its engine carries the constants of this model's front end alone, so that any front end runs without float64.
    Metadata go into a comment: a device has no use for them.

    Raises:
        ModelFileError: the file is damaged, or no model.
        UsageError: the folder is there and not empty.
        RunError: it cannot be written.
    """
    packed = packing.from_bytes(file)
    lean = packing.to_bytes(replace(packed, metadata={}))
    sizes = Model(lean)
    texts = {
        "model.h": _model_h(packed, sizes),
        "model.c": _model_c(lean, packed.metadata),
        "engine/tables.h": c_tables(packed.front_end),
        README: _readme(packed, sizes),
    }
    for source in _sources(files("hark") / "shipping" / "c"):
        texts.setdefault(source.name, source.read_text())
    for source in _sources(files("hark") / "engine"):
        if source.name not in NOT_FOR_DEVICES:
            texts[f"engine/{source.name}"] = source.read_text()
    with new_folder(folder) as new:
        (new / "engine").mkdir()
        for name, text in texts.items():
            (new / name).write_text(text)


def _sources(folder: Traversable) -> list[Traversable]:
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


def _model_h(model: PackedModel, opened: Model) -> str:
    """What the preprocessor must know of a model."""
    memory, point = opened.device_memory, model.operating_point
    numbers = {
        "MODEL_BYTES": len(opened.file),
        "MODEL_SAMPLE_RATE": model.front_end.sample_rate,
        "MODEL_HOP_SAMPLES": model.front_end.hop_length,
        "MODEL_CLASSES": len(model.labels),
        "MODEL_SMOOTHING_STEPS": point.smoothing_steps if point else 1,
        "MODEL_STATE_BYTES": memory.state,
        "MODEL_SCRATCH_BYTES": memory.scratch,
    }
    return _MODEL_H.substitute(
        numbers="\n".join(f"#define {name} {number}" for name, number in numbers.items()), layers=len(model.layers)
    )


_MODEL_H = Template("""\
/* The model: a .hark file, and what an engine for it needs. Written by `hark export --to c`. */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

$numbers

/* Switches of the engine: one stream of int16, no vectors, no front end but the one in engine/tables.h. */
#define HARK_LANES 1
#define HARK_INT16_ONLY
#define HARK_STREAMS_AT_ONCE 1
#define HARK_ROM_FRONT_END_ONLY
#define HARK_MOST_LAYERS $layers

extern const union model_file {
  uint8_t bytes[MODEL_BYTES];
  uint32_t alignment; /* for the float32 in it */
} model_file;

#endif
""")


def _model_c(file: bytes, metadata: Mapping[str, Any]) -> str:
    # Within a comment a slash could end it.
    about = json.dumps(metadata, sort_keys=True).replace("/", "\\/")
    array = textwrap.fill(", ".join(map(str, file)), 118, initial_indent="  ", subsequent_indent="  ")
    comment = f"/* {about} */\n\n" if metadata else ""
    return f'{comment}#include "model.h"\n\nconst union model_file model_file = {{{{\n{array}\n}}}};\n'


def _readme(model: PackedModel, opened: Model) -> str:
    memory, point = opened.device_memory, model.operating_point
    words = ", ".join(json.dumps(label, ensure_ascii=False) for label in model.labels if label)
    ms = 1000 / opened.sample_rate
    return Template((files("hark") / "shipping" / "c" / README).read_text()).substitute(
        words=words or "nothing",
        sample_rate=opened.sample_rate,
        model_bytes=f"{len(opened.file):,}",
        state=f"{memory.state:,}",
        scratch=f"{memory.scratch:,}",
        opened=f"{memory.opened_model:,}",
        stack=f"{memory.stack:,}",
        total=f"{memory.total:,}",
        step_ms=f"{opened.step_samples * ms:g}",
        first_ms=f"{opened.first_step_samples * ms:g}",
        operating_point=(
            f"The model's operating point: threshold {point.threshold:g}, mean of {point.smoothing_steps} steps, "
            f"refractory time {point.refractory_s:g} s."
            if point
            else "The model has no operating point: `./spot` needs `--threshold`, firmware sets `word.point`."
        ),
    )
