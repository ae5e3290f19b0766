"""What a newcomer sees first: models to fetch, a model that is not there, and that something happens at once."""

import os
import pty
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from support.mistakes import offline

from circuitkit import CircuitModel, Discoverer, UsageError
from circuitkit.cli.main import main
from circuitkit.models.fetch import how_to_get
from circuitkit.run.callbacks import RichProgress


def test_fetch_without_a_name_lists_what_it_can_fetch_with_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIRCUITKIT_CACHE", str(tmp_path))
    assert main(["fetch"]) == 0
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if "smollm2-135m" in line]
    assert "98 MB" in line
    assert "542 MB" in line
    assert "not fetched" in line
    (tmp_path / "smollm2-135m").mkdir()
    (tmp_path / "smollm2-135m" / "model.safetensors").touch()
    assert main(["fetch"]) == 0
    assert "not fetched" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("smollm2-135m", "Run `circuitkit fetch smollm2-135m`"),
        ("smolm2-135m", "Did you mean 'smollm2-135m'? `circuitkit fetch smollm2-135m` gets it"),
        ("SmolLM2-135M", "`circuitkit fetch smollm2-135m` gets it"),
        ("toyy", "Did you mean 'toy', which comes with the package?"),
        ("nobody/nothing", "`hf download nobody/nothing` gets it"),
        ("./nothing", "Give the path of a folder with a model"),
    ],
)
def test_a_model_that_is_not_there_says_the_command_that_gets_it(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUITKIT_CACHE", str(tmp_path))
    offline(monkeypatch)
    with pytest.raises(UsageError) as caught:
        CircuitModel.from_pretrained(name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_how_to_get_a_model_of_the_package_and_of_the_hub() -> None:
    assert "circuitkit fetch" not in how_to_get("openai-community/gpt2")
    assert "`hf download openai-community/gpt2`" in how_to_get("openai-community/gpt2")


class Watched(RichProgress):
    """A bar on a terminal of its own."""

    def __init__(self) -> None:
        self.shown = StringIO()
        super().__init__(Console(file=self.shown, force_terminal=True, width=100))


def test_progress_is_shown_while_the_model_is_loaded() -> None:
    bar = Watched()
    seen: list[str] = []

    class Watch:
        def on_load_end(self, run: object) -> None:
            seen.append(bar.shown.getvalue())

    Discoverer("cpu", callbacks=[bar, Watch()]).run("toy", "ioi", "eap", examples=4, sizes=())
    assert "loading the model" in seen[0]
    assert bar._bar is None


def test_the_bar_is_gone_when_loading_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    bar = Watched()
    with pytest.raises(UsageError):
        Discoverer("cpu", callbacks=[bar]).run("toyy", "ioi", "eap")
    assert "loading the model" in bar.shown.getvalue()
    assert bar._bar is None


def read_until(found: Callable[[bytes], bool], arguments: list[str], folder: Path, limit: float) -> tuple[bytes, float]:
    """Run Python in a terminal, until its output is as wanted; return the output, and the seconds that it took."""
    started = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, *arguments])
    seen = b""
    try:
        while not found(seen) and time.monotonic() - started < limit:
            seen += os.read(terminal, 4096)
    except OSError:  # it has ended
        pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(terminal)
    return seen, time.monotonic() - started


def test_a_command_says_at_once_that_it_starts(tmp_path: Path) -> None:
    command = ["-m", "circuitkit", "discover", "--model", "toy", "--task", "ioi", "--strategy", "eap"]
    seen, _ = read_until(lambda text: b"starting" in text, command, tmp_path, 60)
    assert seen.strip() == b"circuitkit: starting; importing torch takes some seconds"
