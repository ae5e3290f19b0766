from .circuit import Circuit as Circuit
from .graph import EdgeGraph as EdgeGraph
from .score_source import ScoreSource as ScoreSource
