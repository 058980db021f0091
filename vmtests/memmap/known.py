"""What a check of a memmap needs besides the kernel's memory, as JSON too: it is kept with a dump and with a guest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from vmtests.memmap.poison import Poison
from vmtests.memmap.truth import RangeTruth


@dataclass(frozen=True)
class Known:
    """What is known of one namespace's memmap after its last bind.

    Args:
        namespace: its kind, such as "devdax-2m-dev".
        device: its name on the nd bus, such as "dax0.0".
        truth: what the probe saw of the bind.
        node: the NUMA node of the device.
        poison: what was overwritten before the bind, or None.
    """

    namespace: str
    device: str
    truth: RangeTruth
    node: int
    poison: Poison | None = None

    def __str__(self) -> str:
        return f"{self.namespace} {self.device}"

    def to_json(self) -> dict[str, Any]:
        poison = self.poison
        return {
            "namespace": self.namespace,
            "device": self.device,
            "truth": asdict(self.truth),
            "node": self.node,
            "poison": None
            if poison is None
            else {
                "pattern": poison.pattern.hex(),
                "starts": poison.starts.tolist(),
                "ends": poison.ends.tolist(),
                "by_kernel": poison.by_kernel,
                "free": None if poison.free is None else poison.free.tolist(),
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return it as `to_json` gave it.

        Raises:
            KeyError, TypeError, ValueError: it is not what `to_json` gives.
        """
        poison = value["poison"]
        return cls(
            namespace=str(value["namespace"]),
            device=str(value["device"]),
            truth=RangeTruth(**value["truth"]),
            node=int(value["node"]),
            poison=None
            if poison is None
            else Poison(
                bytes.fromhex(poison["pattern"]),
                np.array(poison["starts"], dtype=np.int64),
                np.array(poison["ends"], dtype=np.int64),
                poison["by_kernel"],
                None if poison["free"] is None else np.array(poison["free"], dtype=np.bool_),
            ),
        )
