"""Repairers: mend a model that was tampered with."""

from mithridate.defenses.repair.anp import ANP
from mithridate.defenses.repair.base import Repairer, drawn
from mithridate.defenses.repair.clp import CLP
from mithridate.defenses.repair.fine_pruning import FinePruning
from mithridate.defenses.repair.fine_tuning import FineTuning
from mithridate.defenses.repair.ft_sam import FTSAM
from mithridate.defenses.repair.i_bau import IBAU
from mithridate.defenses.repair.recheck import Fresh, fresh_trigger
from mithridate.defenses.repair.unlearning import Unlearning

__all__ = [
    "ANP",
    "CLP",
    "FTSAM",
    "IBAU",
    "FinePruning",
    "FineTuning",
    "Fresh",
    "Repairer",
    "Unlearning",
    "drawn",
    "fresh_trigger",
]
