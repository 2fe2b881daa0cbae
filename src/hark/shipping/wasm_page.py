"""A model as a folder for browsers: the engine as WebAssembly, JavaScript around it, a page that hears it."""

from __future__ import annotations

import shutil
import subprocess
from importlib.resources import as_file, files
from pathlib import Path

from hark.errors import ModelError
from hark.files import new_folder
from hark.runtime import Model

CLANG = (
    *("clang", "--target=wasm32", "-msimd128", "-mbulk-memory", "-nostdlib", "-ffreestanding", "-std=c99", "-Os"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-DHARK_NO_ROM_FRONT_END", "-DHARK_STREAMS_AT_ONCE=1", "-Wl,--no-entry,--strip-all"),
)
"""What compiles the engine: any front end, one stream a call, bits as everywhere."""
WAY_OUT = "it takes clang 11 or later and wasm-ld; on Debian: apt install clang lld"


def export_wasm(file: bytes, folder: Path) -> None:
    """Write the model of a `.hark` file as a folder to be served to browsers, whole or not at all.

    Raises:
        ModelFileError: the file is damaged, or no model.
        ModelError: the engine cannot be compiled here.
        UsageError: the folder is there and not empty.
        RunError: it cannot be written.
    """
    Model(file)
    with new_folder(folder) as new:
        compile_engine(new / "hark.wasm")
        (new / "word.hark").write_bytes(file)
        for source in (files("hark") / "shipping" / "web").iterdir():
            if source.is_file():
                (new / source.name).write_bytes(source.read_bytes())


def compile_engine(module: Path) -> None:
    """Compile the engine into a WebAssembly module, which runs every model.

    Raises:
        ModelError: the tools are missing, or do not do it.
    """
    missing = [tool for tool in ("clang", "wasm-ld") if not shutil.which(tool)]
    if missing:
        raise ModelError(f"no {' and no '.join(missing)} to compile the engine to WebAssembly; {WAY_OUT}")
    with as_file(files("hark") / "engine") as engine:
        done = subprocess.run([*CLANG, engine / "wasm.c", "-o", module], capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip() or f"clang ended with {done.returncode}").splitlines()[0]
        raise ModelError(f"the engine was not compiled to WebAssembly ({reason}); {WAY_OUT}")
