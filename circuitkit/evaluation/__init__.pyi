from .evaluation import Evaluation as Evaluation
from .evaluation import Point as Point
from .evaluator import Evaluator as Evaluator
from .evaluator import evaluate as evaluate
