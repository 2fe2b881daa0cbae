"""A model that ships, opened: the file, its card, and what it costs, which is counted and not stated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hark.judging.detection import OperatingPoint
from hark.models.card import Card, read_card
from hark.packed import packing
from hark.packed.packed_cost import Cost, cost_of_packed
from hark.runtime import DeviceMemory, Model


@dataclass(frozen=True, eq=False)
class Shipped:
    """A `.hark` file with its card."""

    name: str
    file_bytes: int
    card: Card
    cost: Cost
    memory: DeviceMemory
    point: OperatingPoint | None

    @classmethod
    def open(cls, path: Path) -> Shipped:
        """The model in a file, with the card beside it.

        Raises:
            ModelFileError: it is no model, has no card, or the card is of another file.
        """
        model = Model(path)
        return cls(
            name=path.stem,
            file_bytes=len(model.file),
            card=read_card(path),
            cost=cost_of_packed(packing.from_bytes(model.file), state_bytes=model.state_bytes),
            memory=model.device_memory,
            point=model.operating_point,
        )

    @property
    def macs_per_second(self) -> float:
        """Multiplications in a second of stream with a decision at each step, front end included."""
        return self.cost.per_second("macs") + self.cost.frontend_per_second

    def as_dict(self) -> dict[str, Any]:
        """Plain values: the card, and what follows from the file."""
        return {
            "name": self.name,
            "file_bytes": self.file_bytes,
            "macs_per_clip_thop": self.cost.per_clip("thop"),
            "macs_per_second": self.macs_per_second,
            "ram_bytes": self.memory.total,
            "point": self.point and asdict(self.point),
            **asdict(self.card),
        }
