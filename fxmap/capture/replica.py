"""The former place of `fxmap.model.replica`, for scripts that import `replicate` from here."""

from fxmap.model.replica import replicate

__all__ = ["replicate"]
