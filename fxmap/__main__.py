"""`python -m fxmap`: the command line."""

from fxmap.cli import main

if __name__ == "__main__":
    main()
