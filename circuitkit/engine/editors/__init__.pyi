from .base import Editor as Editor
from .incremental import IncrementalEditor as IncrementalEditor
from .replay import ReplayEditor as ReplayEditor
