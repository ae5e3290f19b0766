from .edge_scores import attribute as attribute
from .edge_scores import attribute_prompts as attribute_prompts
from .edge_scores import attribute_writers as attribute_writers
from .reader_gradients import CLEAN_RUN as CLEAN_RUN
from .reader_gradients import Interpolation as Interpolation
from .reader_gradients import ReaderGradients as ReaderGradients
