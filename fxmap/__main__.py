"""`python -m fxmap`: the command line."""

import os
import sys

if __name__ == "__main__":
    # Python puts the current folder first, where a file named like an installed package would win: see `cli.references`.
    if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):
        del sys.path[0]
    from fxmap.cli.entry import main

    main()
