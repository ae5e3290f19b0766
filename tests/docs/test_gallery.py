"""The script that makes the gallery, on the model that comes with the package."""

import re
from pathlib import Path

import make_gallery
import pytest
from support.pages import DOCS


def test_a_page_of_the_gallery_is_made_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_gallery.main(["--only", "toy_ioi", "--out", str(tmp_path)])
    assert capsys.readouterr().out.startswith("toy_ioi: Circuit(")
    made, committed = ((folder / "toy_ioi.md").read_text() for folder in (tmp_path, DOCS / "gallery"))
    assert made.partition("## Figures")[0] == committed.partition("## Figures")[0]
    assert made.partition("```bash")[2].partition("```")[0] == committed.partition("```bash")[2].partition("```")[0]
    assert re.search(r"answers 100% correctly, and the circuit \d+%", made)
    assert re.search(r"\| faithfulness in the KL divergence \| 0\.9\d \[0\.9", made)
    assert (tmp_path / "toy_ioi.png").read_bytes().startswith(b"\x89PNG")
    assert "(toy_ioi.md)" in (tmp_path / "index.md").read_text()
    assert "smollm2" not in (tmp_path / "index.md").read_text()


def test_every_circuit_of_the_gallery_has_a_page_and_all_are_small() -> None:
    committed = {page.stem for page in (DOCS / "gallery").glob("*.md")} - {"index"}
    assert committed == set(make_gallery.ENTRIES)
    assert sum(file.stat().st_size for file in (DOCS / "gallery").iterdir()) < 1_500_000
