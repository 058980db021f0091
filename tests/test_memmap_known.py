"""What is kept of a memmap with a dump or a guest comes back as it was, and the oracle keeps what is there now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fake_memmap import BASE, fsdax, truth
from tests.test_memmap_oracle import Namespace, oracle
from vmtests.memmap.known import Known
from vmtests.memmap.poison import Poison

POISON = Poison(
    b"\xa5", np.array([4096, 1 << 33]), np.array([8192, (1 << 33) + 4096]), "init_on_alloc", np.array([0, 1]) > 0
)


class Named(Namespace):
    id = "fsdax-dev"


@pytest.mark.parametrize("poison", [None, POISON])
def test_json_and_back(poison: Poison | None) -> None:
    known = Known("devdax-2m-dev", "dax0.1", truth(kind=4, order=9), 3, poison)
    back = Known.from_json(json.loads(json.dumps(known.to_json())))
    assert (back.namespace, back.device, back.truth, back.node) == ("devdax-2m-dev", "dax0.1", known.truth, 3)
    if poison is None:
        assert back.poison is None
        return
    assert back.poison is not None
    assert (back.poison.pattern, back.poison.by_kernel) == (b"\xa5", "init_on_alloc")
    assert back.poison.free is not None
    assert back.poison.free.tolist() == [False, True]
    assert back.poison.starts.tolist() == poison.starts.tolist()
    assert back.poison.ends.tolist() == poison.ends.tolist()


def test_the_oracle_knows_the_last_bind(tmp_path: Path) -> None:
    asked = oracle(fsdax(tmp_path), "2 3")
    asked.access.bound = truth()  # type: ignore[attr-defined]
    namespace: Any = Named(size_bytes=1 << 27)
    asked.saw(namespace, truth())
    assert list(asked.known) == [Known("fsdax-dev", "pfn0.0", truth(), 2)]
    asked.poison(namespace)
    asked.saw(namespace, truth(), poisoned=True)
    known = asked.known[0]
    assert known.poison is not None
    assert known.poison.starts.tolist() == [(BASE << 12) + (2 << 20)]
    asked.forget(namespace)
    assert not asked.known
