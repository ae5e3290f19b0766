from .grid import Cell as Cell
from .grid import Grid as Grid
from .runner import ComparisonRunner as ComparisonRunner
from .runner import compare as compare
