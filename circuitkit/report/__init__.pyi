from .dry_run import DryRun as DryRun
from .dry_run import dry_run_table as dry_run_table
from .summary import summarize as summarize
from .tables import comparison_tables as comparison_tables
from .tables import evaluation_tables as evaluation_tables
