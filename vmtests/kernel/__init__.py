"""Kernels: recipes, source, patches, config, and builds in the cache."""

from vmtests.kernel.build import Kernel, build, compile_object
from vmtests.kernel.built import vmlinuxes
from vmtests.kernel.patches import Patch
from vmtests.kernel.recipe import PATCH, Recipe, known, load, resolve

__all__ = ["PATCH", "Kernel", "Patch", "Recipe", "build", "compile_object", "known", "load", "resolve", "vmlinuxes"]
