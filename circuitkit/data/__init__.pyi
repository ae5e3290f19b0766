from .logits import Logits as Logits
from .objectives import AnswerLogProbability as AnswerLogProbability
from .objectives import KLDivergence as KLDivergence
from .objectives import LogitDifference as LogitDifference
from .objectives import Objective as Objective
from .objectives import ProbabilityDifference as ProbabilityDifference
from .objectives import SquaredError as SquaredError
from .prompt_batch import PromptBatch as PromptBatch
