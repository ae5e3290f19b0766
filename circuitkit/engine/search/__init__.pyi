from .cost_estimate import CostEstimate as CostEstimate
from .cost_estimate import estimate_search as estimate_search
from .cost_estimate import estimate_single as estimate_single
from .greedy import GreedySearch as GreedySearch
from .rechecks import Rechecks as Rechecks
