from .files import read_bytes as read_bytes
from .files import read_json as read_json
from .files import write_atomically as write_atomically
from .state import load_state as load_state
from .state import save_state as save_state
from .text import read_yaml as read_yaml
from .text import to_json as to_json
from .text import to_yaml as to_yaml
