from .grid import Cell as Cell
from .grid import Grid as Grid
from .progress import GridProgress as GridProgress
from .runner import compare as compare
