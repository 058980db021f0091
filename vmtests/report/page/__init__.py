"""The report page: one HTML file that needs nothing else, made from run records alone."""

from vmtests.report.page.page import render

__all__ = ["render"]
