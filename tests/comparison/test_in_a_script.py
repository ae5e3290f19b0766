"""`circuitkit.compare` in a plain script."""

import subprocess
import sys

SCRIPT = """
with open("times.txt", "a") as file:
    file.write("once\\n")
import circuitkit

grid = {"models": {"toy": "toy"}, "tasks": {"ioi": "ioi"}, "strategies": {"eap": "eap"}, "examples": 4, "sizes": [0.1]}
circuitkit.compare(grid, out="compared")
"""


def test_a_script_runs_once_and_needs_no_guard(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "times.txt").read_text() == "once\n"
    assert (tmp_path / "compared" / "results.csv").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name == "runs"] == []


OWN_CLASS = """
import circuitkit
from circuitkit.strategies.eap import EAP

class Mine(EAP):
    pass

grid = {"models": {"toy": "toy"}, "tasks": {"ioi": "ioi"}, "strategies": {"mine": "script.Mine"}, "examples": 4}
circuitkit.compare(grid, out=f"compared-{__name__}")
"""


def test_a_script_whose_class_cells_import_is_told_to_guard_its_call(tmp_path):
    """Otherwise each cell would start a comparison with a cell of its own, without end."""
    (tmp_path / "script.py").write_text(OWN_CLASS)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, check=True, timeout=300)
    results = (tmp_path / "compared-__main__" / "results.csv").read_text()
    assert "A cell imports a script that runs `compare`. Put that call below `if __name__" in results
    guarded = OWN_CLASS.replace("circuitkit.compare(", 'if __name__ == "__main__": circuitkit.compare(')
    (tmp_path / "script.py").write_text(guarded.replace("compared-", "guarded-"))
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, check=True)
    assert "A cell imports" not in (tmp_path / "guarded-__main__" / "results.csv").read_text()
