"""Importing this module imports all peers that are there; the server of processes does it once."""

from benchmarks.accuracy.mappers import preload

preload()
