"""The guest's image: an initramfs made from Debian packages in seconds, and kept."""

from vmtests.image.initramfs import Image, build

__all__ = ["Image", "build"]
