from .content import Content as Content
from .content import PageCell as PageCell
