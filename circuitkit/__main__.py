"""`python -m circuitkit`: the same as the command `circuitkit`."""

import sys

from circuitkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
