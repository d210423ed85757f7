"""Measurements of fxmap: `python -m benchmarks COMMAND`.

Each command is a package of its own. What is right is never asked of fxmap itself: references come from
`fxmap.testing.recipes`.
"""
