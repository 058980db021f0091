"""A guest: the machine model, QEMU's process, its monitor, the console, the SSH shell, and what a guest can die of."""

from vmtests.guest.boot import Keeper, boot
from vmtests.guest.console import Console
from vmtests.guest.death import Cause, Death
from vmtests.guest.guest import Guest
from vmtests.guest.kept import Kept
from vmtests.guest.machine import Machine
from vmtests.guest.monitor import Monitor, MonitorError
from vmtests.guest.shell import Result
from vmtests.guest.terminal import Terminal
from vmtests.guest.workspace import Workspace

__all__ = [
    "Cause",
    "Console",
    "Death",
    "Guest",
    "Keeper",
    "Kept",
    "Machine",
    "Monitor",
    "MonitorError",
    "Result",
    "Terminal",
    "Workspace",
    "boot",
]
