"""Sound that does not come: clips that hang whoever reads them, as from a dead disk, or kill them."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data_workers import say_that_this_thread_hangs
from hark.learning.dataset import Task

HELD = threading.Lock()
"""What `LockedSound` takes to read a clip; every fresh process has its own."""


@dataclass(frozen=True)
class FaultySound:
    """The clips of a dataset, of which some do not come."""

    pcm: Any
    hangs: frozenset[int] = frozenset()
    kills: frozenset[int] = frozenset()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pcm.shape

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, np.integer):  # one clip for a batch, not many for something else
            if int(key) in self.hangs:
                say_that_this_thread_hangs()
                time.sleep(3600)
            if int(key) in self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.pcm[key]


@dataclass(frozen=True)
class LockedSound:
    """The clips of a dataset, which are read under a lock."""

    pcm: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pcm.shape

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, np.integer):
            return self.pcm[key]
        with HELD:
            return self.pcm[key]


def with_sound(task: Task, sound: Any) -> Task:
    """The task with other sound in its training part."""
    return replace(task, training=replace(task.training, pcm=sound))


def faulty(task: Task, *, hangs: tuple[int, ...] = (), kills: tuple[int, ...] = ()) -> Task:
    """The task with some clips of its training part that do not come."""
    return with_sound(task, FaultySound(task.training.pcm, frozenset(hangs), frozenset(kills)))
