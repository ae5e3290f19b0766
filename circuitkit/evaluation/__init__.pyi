from .evaluator import Evaluator as Evaluator
from .evaluator import evaluate as evaluate
from .measures import Evaluation as Evaluation
from .measures import Point as Point
