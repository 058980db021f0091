"""A namespace that is there when the guest boots: what ndctl wrote on one NVDIMM, to be written on others.

That is little: the labels, which share the NVDIMM out, and the namespace's info block, which says where its memmap
lies and where its data begin (drivers/nvdimm/pfn.h in 7.3.4). Both were written by the kernel and ndctl in a guest of
ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vmtests.pmem.backing import BackingFile
from vmtests.pmem.namespace import Namespace
from vmtests.pmem.nvdimm import Nvdimm

#: A namespace's first bytes: the info block and what stands before it (SZ_8K in nd_pfn_init()).
_HEAD_BYTES = 8192


@dataclass(frozen=True)
class Prepared:
    """A namespace on an NVDIMM of `nvdimm_bytes`.

    Attributes:
        id, mode, map, align_bytes, size_bytes: as of the Namespace that it was taken from.
        nvdimm_bytes, label_bytes: as of its Nvdimm.
        pieces: bytes by their offset in the backing file.
    """

    id: str
    mode: str
    map: str
    align_bytes: int
    size_bytes: int
    nvdimm_bytes: int
    label_bytes: int
    pieces: Mapping[int, bytes]

    @classmethod
    def take(cls, namespace: Namespace) -> Prepared:
        """Take it from a namespace that ndctl has just made; its guest may run."""
        nvdimm = namespace.region.nvdimm
        offsets = {namespace.start - namespace.region.start: _HEAD_BYTES, nvdimm.size_bytes: nvdimm.label_bytes}
        pieces = {}
        with nvdimm.backing.open("rb") as file:
            for offset, count in offsets.items():
                file.seek(offset)
                pieces[offset] = file.read(count)
        return cls(
            id=namespace.id,
            mode=namespace.mode,
            map=namespace.map,
            align_bytes=namespace.align_bytes,
            size_bytes=namespace.size_bytes,
            nvdimm_bytes=nvdimm.size_bytes,
            label_bytes=nvdimm.label_bytes,
            pieces=pieces,
        )

    def write(self, path: Path) -> BackingFile:
        """Make a backing file with nothing but this namespace on it.

        Raises:
            HostFailure: as BackingFile.create().
        """
        backing = BackingFile.create(path, Nvdimm.backing_bytes(self.nvdimm_bytes, self.label_bytes))
        try:
            with path.open("r+b") as file:
                for offset, data in self.pieces.items():
                    file.seek(offset)
                    file.write(data)
        except BaseException:
            backing.close()
            raise
        return backing

    def save(self, folder: Path) -> None:
        """Keep it in a folder."""
        facts = asdict(self) | {"pieces": {str(offset): data.hex() for offset, data in self.pieces.items()}}
        (folder / "namespace.json").write_text(json.dumps(facts, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Prepared:
        """Return what was kept in a folder."""
        facts = json.loads((folder / "namespace.json").read_text())
        pieces = {int(offset): bytes.fromhex(data) for offset, data in facts.pop("pieces").items()}
        return cls(pieces=pieces, **facts)
