"""The one error of this package; its text follows Go's (`template: :1:2: executing "" at <.X>: …`)."""

from __future__ import annotations


class TemplateError(Exception):
    """A template that can't be parsed or executed. `str(error)` is a message for the user."""


class FunctionError(Exception):
    """Raised by a template function; the executor adds where in the template it happened."""
