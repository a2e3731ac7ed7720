"""Evasion attacks, one algorithm a file, and the runner that certifies them."""

from mithridate.attacks.base import Attack, BoundedAttack, MinimalAttack
from mithridate.attacks.fast_gradient import FGSM, IterativeFGSM
from mithridate.attacks.pgd import PGD
from mithridate.attacks.run import AttackResult, run_attack

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "BoundedAttack",
    "IterativeFGSM",
    "MinimalAttack",
    "run_attack",
]
