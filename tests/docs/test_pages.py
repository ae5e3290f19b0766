"""Every block of code in the documentation runs, in the order of its page, and prints what the page shows."""

import tempfile
from pathlib import Path

import pytest
from support.pages import DOCS, blocks, run_page

# Page: the beginning of a block, and why it is not run here
NOT_RUN = {
    "comparison.md": {"models: {toy: toy}": "30 cells; tests/comparison/test_grid.py has such rules"},
    "eap_ig_and_mib.md": {
        "circuit = Circuit.from_eap_ig": "tests/circuit/test_eap_ig_files.py does it with files of EAP-IG",
        "from circuitkit.circuit import read_mib_submission": "how-to/export_mib.md does it",
        "from circuitkit.circuit.mib_files": "how-to/export_mib.md does it",
    },
    "explanation/proposals.md": {"strategy:": "part of a config; tests/run/test_proposals.py has such specs"},
    "models.md": {
        "model = CircuitModel.from_pretrained": "needs a GGUF file; tests/models/test_gguf_file.py writes some"
    },
    "pahq.md": {"strategy: acdc": "part of a config"},
    "tasks.md": {"from circuitkit import CircuitModel": "measures SmolLM2-135M, for minutes"},
    "start.md": {
        "python3 -m venv": "sets up an environment; .ci/run does it with the README's line, in one line",
        "circuitkit fetch smollm2-135m": "downloads a model, and takes minutes",
    },
    "how-to/cluster.md": {
        "pip install": "needs a Ray cluster; tests/comparison/test_ray.py runs one on this machine",
        "#!/bin/bash": "needs Slurm; the lines below it on the page are run",
        "torchrun": "launches processes; tests/run/test_processes.py does it",
    },
    "how-to/gpu.md": {"torchrun": "needs two GPUs; tests/run/test_processes.py does it with processes on a CPU"},
}
NOT_RUN |= {
    page.relative_to(DOCS).as_posix(): {"circuitkit discover --model smollm2-135m": "takes minutes"}
    for page in DOCS.glob("gallery/smollm2_*.md")
}
# tests/test_readme.py runs the page on Python
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if page != DOCS / "python.md" and any(blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_code_of_a_page_runs_and_prints_what_it_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run_page(page, NOT_RUN.get(page.relative_to(DOCS).as_posix()))
