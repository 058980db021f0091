"""What this host can run, and what it lacks."""

from vmtests.host.facts import Host, probe
from vmtests.host.kvm import Accelerator, accelerator
from vmtests.host.qemu import parse_missing_features

__all__ = ["Accelerator", "Host", "accelerator", "parse_missing_features", "probe"]
