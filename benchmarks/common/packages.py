"""Folders of packages that are not installed: importing this module puts them at the end of sys.path, in every process."""

import os
import sys

FOLDERS = "FXMAP_BENCHMARK_PACKAGES"  # the environment variable, as PYTHONPATH


def append_folders() -> None:
    """Put the folders that the environment names at the end of sys.path, where what is installed goes first."""
    for folder in os.environ.get(FOLDERS, "").split(os.pathsep):
        if folder and folder not in sys.path:
            sys.path.append(folder)


append_folders()
