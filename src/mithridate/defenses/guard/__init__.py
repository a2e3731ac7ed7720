"""Guards: watch the stream of queries, and may refuse to answer."""

from mithridate.defenses.guard.base import Guard
from mithridate.defenses.guard.blacklight import Blacklight
from mithridate.defenses.guard.piha import PIHA
from mithridate.defenses.guard.query_guard import QueryGuard

__all__ = ["PIHA", "Blacklight", "Guard", "QueryGuard"]
