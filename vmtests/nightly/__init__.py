"""The nightly: a matrix of cells run by avocado, a gate that counts them, and alerts that tell each change once."""
