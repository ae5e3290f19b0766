from .comparison_tables import comparison_tables as comparison_tables
from .dry_run import DryRun as DryRun
from .dry_run import dry_run_table as dry_run_table
from .estimate import Estimate as Estimate
from .evaluation_tables import evaluation_tables as evaluation_tables
from .result_table import RESULT_COLUMNS as RESULT_COLUMNS
from .summary import summarize as summarize
