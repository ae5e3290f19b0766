from .base import Task as Task
from .ioi import IOI as IOI
from .prompt_file import PromptFile as PromptFile
