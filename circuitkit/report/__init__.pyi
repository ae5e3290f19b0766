from .comparison_tables import comparison_tables as comparison_tables
from .dry_run import DryRun as DryRun
from .dry_run import dry_run_table as dry_run_table
from .evaluation_tables import evaluation_tables as evaluation_tables
from .over_seeds import SeedAverage as SeedAverage
from .over_seeds import average_over_seeds as average_over_seeds
from .summary import summarize as summarize
