from .backward_rule import BackwardRule as BackwardRule
from .circuit_model import CircuitModel as CircuitModel
from .families.base import Family as Family
