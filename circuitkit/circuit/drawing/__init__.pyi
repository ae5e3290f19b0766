from .layout import node_positions as node_positions
from .viewer import Assets as Assets
from .viewer import MeasuredSize as MeasuredSize
from .viewer import viewer_assets as viewer_assets
from .viewer import viewer_data as viewer_data
from .viewer import viewer_html as viewer_html
