"""Is the memmap of a ZONE_DEVICE range still right, and what did a kernel patch do to the time it takes?"""

__version__ = "0.1.0"
