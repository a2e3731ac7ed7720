"""Every registered attack keeps the contract of attacks."""

import json
import subprocess
import sys
from functools import cache

import pytest

from mithridate import component
from mithridate.attacks.base import Attack
from mithridate.testing import AttackConformance

SETTINGS = {
    "fgsm": {"eps": 0.3},
    "iterative-fgsm": {"eps": 0.3},
    "pgd": {"eps": 0.3, "steps": 10, "step_size": 0.05},
    "deepfool": {},
    "dynamic-deepfool": {},
    "ddn": {"steps": 20},
    "carlini-wagner": {"steps": 20, "search_steps": 2},
    "carlini-wagner-l0": {"steps": 20, "rounds": 5},
    "carlini-wagner-linf": {"steps": 20, "rounds": 5},
    "lbfgs": {"steps": 10, "search_steps": 3},
    "jsma": {"gamma": 1.0},
    "apgd": {"eps": 0.3, "steps": 10},
    "square": {"eps": 0.3, "queries": 60},
    "fab": {"steps": 10},
    "autoattack": {"eps": 0.3, "steps": 5, "queries": 10},
    "hopskipjump": {"budget": 150},
    "boundary": {"budget": 150},
    "one-pixel": {"pixels": 3, "population": 20, "generations": 10},
    "adversarial-patch": {"scale_min": 0.7, "scale_max": 0.9, "steps": 30, "step_size": 0.2},
}
VARIANTS = {
    "iterative-fgsm l2": {"eps": 1.0, "norm": "l2", "step_size": 0.2},
    "pgd l2": {"eps": 1.5, "norm": "l2", "steps": 5, "step_size": 0.3, "restarts": 2},
    "pgd l1": {"eps": 5.0, "norm": "l1", "steps": 9, "step_size": 1.0, "restarts": 2},
    "apgd l2": {
        "eps": 1.5, "norm": "l2", "steps": 10, "loss": "dlr-targeted", "restarts": 2,
    },
    "square l2": {"eps": 1.5, "norm": "l2", "queries": 60},
    "fab linf": {"norm": "linf", "steps": 10, "targets": 9, "restarts": 2},
    "deepfool linf": {"norm": "linf", "candidates": None},
    "hopskipjump linf": {"norm": "linf", "budget": 150},
    "autoattack l2": {"eps": 1.5, "norm": "l2", "version": "plus", "steps": 3, "queries": 10},
}  # fmt: skip
"""Other settings that take another way through the code: name of the attack, and a word."""
CASES = SETTINGS | VARIANTS
UNIVERSAL = {"adversarial-patch"}
"""A patch is learned on the whole batch: other images, another patch (Brown et al. 2017)."""
NAMES = sorted(component.TABLES["attacks"])


@pytest.fixture(params=sorted(CASES))
def _name(request):
    return request.param


class TestRegisteredAttacks(AttackConformance):
    name = "fgsm"

    @pytest.fixture(autouse=True)
    def _choose(self, _name):
        self.name = _name
        self.universal = _name in UNIVERSAL

    def attack(self) -> Attack:
        return component.create("attacks", self.name.split()[0], CASES[self.name])

    def test_same_bytes_in_another_process(self):
        assert elsewhere()[self.name] == self.digest()


@cache
def elsewhere():
    """Digests of all cases, from one other process."""
    code = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('contract', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "suite, found = module.TestRegisteredAttacks(), {}\n"
        "for suite.name in module.CASES:\n"
        "    found[suite.name] = suite.digest()\n"
        "print(json.dumps(found))\n"
    )
    command = [sys.executable, "-c", code, __file__]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    return json.loads(found.stdout)


def test_every_registered_attack_has_settings_here():
    assert set(SETTINGS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_listed_path_imports(name):
    assert issubclass(component.find("attacks", name), Attack)
