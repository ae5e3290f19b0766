from .comparison import Comparison as Comparison
from .grid import Cell as Cell
from .grid import Grid as Grid
from .progress import GridProgress as GridProgress
from .rows import COLUMNS as COLUMNS
from .runner import compare as compare
