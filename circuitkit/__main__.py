"""`python -m circuitkit`: the same as the command `circuitkit`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current folder, which may hold modules of a stranger
    from circuitkit.cli.main import main

    sys.exit(main())
