from .base import FullPrecision as FullPrecision
from .base import PrecisionPolicy as PrecisionPolicy
from .pahq import PAHQ as PAHQ
from .pahq import AllLowPrecision as AllLowPrecision
