"""`python -m fxmap`: the command line."""

from fxmap.cli.app import main

if __name__ == "__main__":
    main()
