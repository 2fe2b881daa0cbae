"""What the fault tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hark_processes import Parent


@pytest.fixture(scope="session")
def parent() -> Iterator[Parent]:
    """A process that has loaded torch and forks commands."""
    with Parent() as parent:
        yield parent
