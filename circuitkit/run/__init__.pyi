from .callbacks import Callback as Callback
from .callbacks import ProgressLog as ProgressLog
from .callbacks import RichProgress as RichProgress
from .discoverer import Discoverer as Discoverer
from .discoverer import discover as discover
from .resources import ResourceMonitor as ResourceMonitor
from .result import Result as Result
from .run_config import RunConfig as RunConfig
