"""Short reprs in the form of the call that makes an object."""

from pathlib import Path
from typing import Any

from circuitkit.config.reprs import constructor_form


class Thing:
    def __init__(
        self, where: Path, size: int = 3, names: tuple[str, ...] = (), hidden: Any = None, **more: Any
    ) -> None:
        self.where, self.size, self.names = where, size, names


class Bare:
    pass


def test_arguments_that_have_their_defaults_or_no_attribute_are_left_out() -> None:
    assert constructor_form(Bare()) == "Bare()"
    assert constructor_form(Thing(Path("a/b"))) == "Thing(where='a/b')"
    assert (
        constructor_form(Thing(Path("a"), size=4, names=("x",), hidden=5)) == "Thing(where='a', size=4, names=('x',))"
    )


def test_long_arguments_are_cut() -> None:
    assert len(constructor_form(Thing(Path("x" * 10_000)))) < 250
