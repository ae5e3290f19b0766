from .hard_concrete import Gates as Gates
from .trainer import GateTraining as GateTraining
from .trainer import MaskTraining as MaskTraining
