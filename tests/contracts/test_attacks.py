"""Every registered attack keeps the contract of attacks."""

import subprocess
import sys

import pytest

from mithridate import registry
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
DETERMINISTIC = {
    "fgsm",
    "iterative-fgsm",
    "deepfool",
    "dynamic-deepfool",
    "ddn",
    "lbfgs",
    "jsma",
    "fab",
}
NAMES = sorted(registry.TABLES["attacks"])


@pytest.fixture(params=NAMES)
def _name(request):
    return request.param


class TestRegisteredAttacks(AttackConformance):
    name = "fgsm"

    @pytest.fixture(autouse=True)
    def _choose(self, _name):
        self.name = _name
        self.deterministic = _name in DETERMINISTIC

    def attack(self) -> Attack:
        return registry.create("attacks", self.name, SETTINGS[self.name])

    def test_same_bytes_in_another_process(self):
        code = (
            "import importlib.util, sys\n"
            "spec = importlib.util.spec_from_file_location('contract', sys.argv[1])\n"
            "module = importlib.util.module_from_spec(spec)\n"
            "spec.loader.exec_module(module)\n"
            "suite = module.TestRegisteredAttacks()\n"
            "suite.name = sys.argv[2]\n"
            "print(suite.digest())\n"
        )
        command = [sys.executable, "-c", code, __file__, self.name]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        assert found.stdout.strip() == self.digest()


def test_every_registered_attack_has_settings_here():
    assert set(SETTINGS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_listed_path_imports(name):
    assert issubclass(registry.find("attacks", name), Attack)
