from . import registry as registry
from . import specs as specs
from .specs import Spec as Spec
