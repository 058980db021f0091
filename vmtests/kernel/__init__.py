"""Kernels: recipes, source, patches, config, and builds in the cache."""

from vmtests.kernel.build import build, compile_object
from vmtests.kernel.built import vmlinuxes
from vmtests.kernel.kernel import Kernel
from vmtests.kernel.make import BuildFailure
from vmtests.kernel.patches import ApplyFailure, Patch
from vmtests.kernel.recipe import IMAGE, PATCH, Recipe, known, load, resolve
from vmtests.kernel.series import Series

__all__ = [
    "IMAGE",
    "PATCH",
    "ApplyFailure",
    "BuildFailure",
    "Kernel",
    "Patch",
    "Recipe",
    "Series",
    "build",
    "compile_object",
    "known",
    "load",
    "resolve",
    "vmlinuxes",
]
