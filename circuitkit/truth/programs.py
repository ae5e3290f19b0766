"""All programs, by name."""

from circuitkit.truth.copying import DuplicateToken, Induction, KeyValueLookup, Reverse
from circuitkit.truth.counting import BracketDepth, FractionOfPrevious, GreaterThan
from circuitkit.truth.interacting import Backup, NegativeHead, SharedHeads
from circuitkit.truth.names import IndirectObject
from circuitkit.truth.program import Program

_ALL: tuple[type[Program], ...] = (
    Induction,
    DuplicateToken,
    IndirectObject,
    GreaterThan,
    BracketDepth,
    Reverse,
    FractionOfPrevious,
    KeyValueLookup,
    SharedHeads,
    Backup,
    NegativeHead,
)
PROGRAMS: dict[str, type[Program]] = {program.name: program for program in _ALL}
"""The programs by name; `PROGRAMS["induction"]().build("llama")` makes a model."""
