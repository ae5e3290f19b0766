from .circuit import Circuit as Circuit
from .graph import EdgeGraph as EdgeGraph
from .mib_files import read_mib_submission as read_mib_submission
from .mib_files import write_mib_submission as write_mib_submission
from .score_source import ScoreSource as ScoreSource
