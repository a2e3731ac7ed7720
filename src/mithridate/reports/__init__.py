"""Reports: the record of a run in its folder, and the one HTML file made from it. No torch."""

from mithridate.reports.compare import compare
from mithridate.reports.folder import parts, read, write
from mithridate.reports.page import render

__all__ = ["compare", "parts", "read", "render", "write"]
