"""The one error of this package that a user sees."""

from __future__ import annotations


class LayerError(Exception):
    """A layer or an index is not what it should be. The message says what and where, in words for the user."""
