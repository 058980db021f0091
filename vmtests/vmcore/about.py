"""Our own note in a dump: what a check of its memmaps needs, and which kernel it is of. Other readers pass over it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from vmtests.elf import Note
from vmtests.errors import HostFailure
from vmtests.memmap.known import Known
from vmtests.vmcore.elf import Core

if TYPE_CHECKING:
    from vmtests.kernel import Kernel

NAME, TYPE = "vmtests", 1
SCHEMA = 1


@dataclass(frozen=True)
class About:
    """What is told with a dump.

    Args:
        kernel, release: the kernel's name here, and as `uname -r` says it.
        vmlinux: where its debug info was when the dump was written, if it has any.
        config: the kernel's .config: "CONFIG_X" -> value, options that are not set absent.
        memmaps: what is known of each memmap in it.
        reason: why it was written.
        written: when, ISO 8601.
    """

    kernel: str
    release: str
    vmlinux: Path | None
    config: Mapping[str, str]
    memmaps: tuple[Known, ...]
    reason: str
    written: str

    @classmethod
    def of(cls, kernel: Kernel, memmaps: Sequence[Known], reason: str) -> Self:
        """Return what there is to say of a guest with this kernel, now."""
        return cls(
            kernel=kernel.name,
            release=kernel.release,
            vmlinux=kernel.vmlinux,
            config=kernel.config_values(),
            memmaps=tuple(memmaps),
            reason=reason,
            written=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        )

    def note(self) -> Note:
        """Return it as the note."""
        value = {
            "schema": SCHEMA,
            "kernel": self.kernel,
            "release": self.release,
            "vmlinux": None if self.vmlinux is None else str(self.vmlinux),
            "config": dict(self.config),
            "memmaps": [known.to_json() for known in self.memmaps],
            "reason": self.reason,
            "written": self.written,
        }
        return Note(NAME, TYPE, json.dumps(value).encode())

    @classmethod
    def read(cls, core: Core, file: Path) -> Self:
        """Return what the dump `file`, whose front is `core`, tells.

        Raises:
            HostFailure: it has no such note, one of a newer vmtests, or a damaged one.
        """
        data = core.note(NAME, TYPE)
        if data is None:
            raise HostFailure(
                f"{file} has no note of vmtests, so nobody knows what its memmaps must hold: only dumps that vmtests "
                "wrote can be checked. drgn and crash may open it all the same"
            )
        try:
            value = json.loads(data)
            if value["schema"] > SCHEMA:
                raise HostFailure(
                    f"{file} was written by a newer vmtests (note {value['schema']}, this one reads up to {SCHEMA})"
                )
            return cls(
                kernel=str(value["kernel"]),
                release=str(value["release"]),
                vmlinux=None if value["vmlinux"] is None else Path(value["vmlinux"]),
                config={str(name): str(setting) for name, setting in value["config"].items()},
                memmaps=tuple(map(Known.from_json, value["memmaps"])),
                reason=str(value["reason"]),
                written=str(value["written"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise HostFailure(f"the note of vmtests in {file} is damaged: {error!r}") from error
