"""The source of an edge's score."""

from enum import IntEnum


class ScoreSource(IntEnum):
    """The source of an edge's score. The numbers are part of the file format."""

    GIVEN = 0
    """Given by the code that made the circuit."""
    TESTED = 1
    """The effect of removing this edge alone, when it was tested."""
    ESTIMATED = 2
    """A first-order estimate, from a gradient."""
    DEAD = 3
    """Untested, since no path of kept edges led from it to the logits. The score is 0."""
    JOINT = 4
    """The effect of removing this edge together with others, when they were tested."""
