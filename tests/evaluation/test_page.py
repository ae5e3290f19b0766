"""The page on intervals: its Python prints what it shows."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "intervals.md"
_NUMBER = re.compile(r"\d+\.\d+")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_python_of_the_page_prints_what_it_shows() -> None:
    code, output = (re.search(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)[1] for kind in ("python", "text"))
    text = io.StringIO()
    with redirect_stdout(text):
        exec(compile(code, str(PAGE), "exec"), {})
    found = text.getvalue()
    assert _NUMBER.sub("", found) == _NUMBER.sub("", output)
    numbers = [[float(number) for number in _NUMBER.findall(words)] for words in (found, output)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.03)  # as machines round differently
