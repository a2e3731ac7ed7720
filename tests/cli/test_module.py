import subprocess
import sys

import mithridate


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "mithridate", "--version"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert mithridate.__version__ in found.stdout
