"""Exit statuses of the command line."""

from enum import IntEnum


class Exit(IntEnum):
    """What the status of a command says.

    >>> int(Exit.INTERRUPTED)
    130
    """

    DONE = 0
    # Mapped but not proven, incomplete, or different.
    UNPROVEN = 1
    # The command line itself, or a missing package.
    USAGE = 2
    # An input that is refused or broken, or a model whose code raised or exited.
    REFUSED = 3
    # The result could not be written.
    UNWRITTEN = 4
    # A bug of fxmap; its traceback is on stderr.
    FAULT = 5
    # As shells say it: 128 and the number of the signal.
    INTERRUPTED = 130
