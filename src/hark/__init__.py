"""hark: train keyword spotters, shrink them, and prove that what was shrunk still hears the same."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Name → the module it is taken from when it is first asked for, so that `import hark` stays quick.
_LAZY = {"Model": "hark.runtime", "attach": "hark.record.watching"}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
