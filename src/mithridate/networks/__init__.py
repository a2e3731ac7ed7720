"""Networks, one architecture a file; `create` builds one by its registered name."""

from mithridate.networks.base import create, names

__all__ = ["create", "names"]
