from .comparison import Comparison as Comparison
from .dry_run import Prediction as Prediction
from .dry_run import predict_cells as predict_cells
from .grid import Cell as Cell
from .grid import Grid as Grid
from .progress import GridProgress as GridProgress
from .rows import COLUMNS as COLUMNS
from .runner import compare as compare
