from .checking import check_class as check_class
from .outcome import ContractError as ContractError
from .outcome import NotApplicableError as NotApplicableError
from .outcome import Outcome as Outcome
