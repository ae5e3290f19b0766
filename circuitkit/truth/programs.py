"""All programs, by name."""

from circuitkit.truth.copying import Induction, KeyValueLookup
from circuitkit.truth.program import Program

PROGRAMS: dict[str, type[Program]] = {program.name: program for program in (Induction, KeyValueLookup)}
"""The programs by name; `PROGRAMS["induction"]().build("llama")` makes a model."""
