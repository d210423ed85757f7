"""The entry of the command line, which answers also for what comes before `app` has begun: an interrupt while importing."""

import contextlib
import os
import sys

from fxmap.cli.statuses import Exit


def main() -> None:
    """Run the command line; exits with a status."""
    try:
        from fxmap.cli.output import hold_descriptors, seal

        hold_descriptors()
        from fxmap.cli.app import main as run

        try:
            run()
        finally:
            seal()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            os.write(2, b"fxmap: error: interrupted\n")
        sys.exit(Exit.INTERRUPTED)
