"""The two things that refine raises: one error, one warning."""

from __future__ import annotations

__all__ = ["RefineError", "RefineWarning"]


class RefineError(ValueError):
    """An input that cannot be used: one line with the name, the value, the rule and the remedy."""


class RefineWarning(UserWarning):
    """A result that can be used but may mislead."""
