"""Timing: probes in the guest, the loop of rebinds, and the verdict."""
