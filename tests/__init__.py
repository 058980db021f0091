"""The framework's own tests: no VM, seconds."""
