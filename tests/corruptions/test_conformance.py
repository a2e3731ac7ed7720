"""Every corruption of the table keeps the contract of its kind."""

from __future__ import annotations

import pytest

from mithridate import component
from mithridate.testing import CorruptionConformance


@pytest.fixture(params=component.in_order("corruptions"), autouse=True)
def name(request):
    request.instance.name = request.param


class TestCorruptions(CorruptionConformance):
    def corruption(self):
        return component.create("corruptions", self.name)
