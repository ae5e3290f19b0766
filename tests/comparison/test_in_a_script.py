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
