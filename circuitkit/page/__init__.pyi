from .charts import Chart as Chart
from .charts import chart_config as chart_config
from .charts import make_charts as make_charts
from .content import Content as Content
from .content import PageCell as PageCell
from .page import write_report as write_report
