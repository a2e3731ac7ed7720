"""Reports: the record of a run, and the one HTML file made from it. Imports no torch."""

from mithridate.reports.folder import read, write
from mithridate.reports.render import compare, render
from mithridate.reports.schema import Record

__all__ = ["Record", "compare", "read", "render", "write"]
