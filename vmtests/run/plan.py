"""The order of the boots: pairs back to back, the order in a pair drawn, as many base-first as patched-first."""

from __future__ import annotations

import random
from collections.abc import Sequence


def order(kernels: Sequence[str], boots: int, seed: int) -> list[tuple[str, int]]:
    """Return (kernel, boot) in the order to run them.

    Args:
        kernels: the first is the base.
        boots: how many boots each kernel gets.
        seed: the same seed gives the same order.
    """
    chance = random.Random(seed)
    # Rotations of the list put each kernel first equally often, a slow drift of the host then favours none of them.
    turns = [list(kernels[shift:]) + list(kernels[:shift]) for shift in range(len(kernels))]
    blocks: list[list[str]] = []
    while len(blocks) < boots:
        chance.shuffle(turns)
        blocks += turns
    return [(kernel, boot) for boot, block in enumerate(blocks[:boots]) for kernel in block]
