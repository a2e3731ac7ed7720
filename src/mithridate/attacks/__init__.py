"""Evasion attacks, one algorithm a file, and the runner that certifies them."""

from mithridate.attacks.adversarial_patch import AdversarialPatch
from mithridate.attacks.adversary import Adversary
from mithridate.attacks.alma import ALMA
from mithridate.attacks.apgd import APGD
from mithridate.attacks.autoattack import AutoAttack
from mithridate.attacks.base import Attack, BoundedAttack, MinimalAttack
from mithridate.attacks.boundary import Boundary
from mithridate.attacks.carlini_wagner import CarliniWagner, CarliniWagnerL0, CarliniWagnerLinf
from mithridate.attacks.curve import eps_curve
from mithridate.attacks.ddn import DDN
from mithridate.attacks.deepfool import DeepFool, DynamicDeepFool
from mithridate.attacks.fab import FAB
from mithridate.attacks.fast_gradient import FGSM, IterativeFGSM
from mithridate.attacks.fmn import FMN
from mithridate.attacks.hopskipjump import HopSkipJump
from mithridate.attacks.jsma import JSMA
from mithridate.attacks.lagrangian_pgd import LagrangianPGD
from mithridate.attacks.lbfgs import LBFGS
from mithridate.attacks.nearest import Nearest
from mithridate.attacks.one_pixel import OnePixel
from mithridate.attacks.pdpgd import PDPGD
from mithridate.attacks.pgd import PGD
from mithridate.attacks.run import AttackResult, run_attack
from mithridate.attacks.sigma_zero import SigmaZero
from mithridate.attacks.square import Square

__all__ = [
    "ALMA",
    "APGD",
    "DDN",
    "FAB",
    "FGSM",
    "FMN",
    "JSMA",
    "LBFGS",
    "PDPGD",
    "PGD",
    "AdversarialPatch",
    "Adversary",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "Boundary",
    "BoundedAttack",
    "CarliniWagner",
    "CarliniWagnerL0",
    "CarliniWagnerLinf",
    "DeepFool",
    "DynamicDeepFool",
    "HopSkipJump",
    "IterativeFGSM",
    "LagrangianPGD",
    "MinimalAttack",
    "Nearest",
    "OnePixel",
    "SigmaZero",
    "Square",
    "eps_curve",
    "run_attack",
]
