"""The map in ARCHITECTURE.md is the law: which modules there are, in which order, and which need no torch."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "hark"

MAP = re.search(r"^## The map$.*?^```$", (ROOT / "ARCHITECTURE.md").read_text(), re.M | re.S)[0]  # type: ignore[index]
MODULE_LINE = re.compile(r"^([\w/]+\.py) +\S", re.M)
CORE, WITH_TORCH = (MODULE_LINE.findall(half) for half in MAP.split("══", 1))
ORDER = [*CORE, *WITH_TORCH]
TREE = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
HEAVY = {"torch", "pydantic", "matplotlib", "scipy"}


def test_the_map_has_a_line_for_every_module_and_a_module_for_every_line() -> None:
    unlisted, gone = sorted(set(TREE) - set(ORDER)), sorted(set(ORDER) - set(TREE))
    assert not unlisted, f"{unlisted}: give each a line in ARCHITECTURE.md's map, below all that it imports"
    assert not gone, f"{gone}: not in src/hark; remove the lines from ARCHITECTURE.md's map"
    assert len(ORDER) == len(set(ORDER)), "a module has two lines in ARCHITECTURE.md's map; keep one"


@pytest.mark.parametrize("module", TREE)
def test_a_module_imports_only_what_stands_above_it(module: str) -> None:
    above = ORDER[: ORDER.index(module)] if module in ORDER else TREE
    wrong = sorted(imports((PACKAGE / module).read_text(), module=module) - {module, *above})
    assert not wrong, (
        f"{module} imports {wrong}, which ARCHITECTURE.md's map has below it; move what both need into a "
        f"module above them, or, if nothing there imports {module}, move its line down"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import hark.sound.audio", {"sound/audio.py"}),
        ("from hark.network.crnn import Crnn", {"network/crnn.py"}),
        ("from hark import errors, __version__", {"__init__.py", "errors.py"}),
        ("from .crnn import Crnn", {"network/crnn.py"}),
        ("from ..errors import HarkError", {"errors.py"}),
        ("def late():\n    import hark.learning.training", {"learning/training.py"}),
        ("import numpy, harking.audio", set()),
    ],
)
def test_imports_are_found_in_every_form_and_place(line: str, expected: set[str]) -> None:
    assert imports(line, module="network/spotter.py") == expected


@pytest.mark.parametrize("module", TREE)
def test_a_module_is_named_after_what_is_in_it(module: str) -> None:
    assert not {*Path(module).with_suffix("").parts} & NAMES_THAT_SAY_NOTHING, (
        f"{module}: says nothing of what is in it; name it after its one concept"
    )


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import hark", id="import hark"),
        pytest.param("from hark.cli import cli; cli.main(['--help'], standalone_mode=False)", id="hark --help"),
        pytest.param(
            "import " + ", ".join(f"hark.{module[:-3].replace('/', '.')}" for module in CORE[1:]),
            id="everything above the line",
        ),
    ],
)
def test_the_core_imports_without_torch(code: str) -> None:
    ask = f"import sys; {code}; print('loaded:', *{HEAVY!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1].removeprefix("loaded:").split()
    assert not loaded, f"loads {loaded}; import them inside the functions that need them"


def imports(source: str, *, module: str) -> set[str]:
    """The modules of hark that `source`, the text of `module`, imports anywhere, as files."""
    package = ".".join(("hark", *Path(module).parent.parts))
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    inside = {"/".join(name.split(".")[1:]) for name in names if name.split(".")[0] == "hark"}
    files = {candidate for name in inside for candidate in (f"{name}.py", f"{name}/__init__.py".lstrip("/"))}
    return files & set(TREE)
