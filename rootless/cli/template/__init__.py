"""Go's text/template as users of docker's --format write it: `Template(text).render(data)`.

Owns the language: lexer -> parser -> exec, docker's functions, and Go's printing of values. Pure: no I/O.
Leaves to the command line: the word `table`, column headers, what the data of a command is.
Called by: rootless.cli (everything with --format).

Data is what JSON gives: dict, list, str, int, float, bool, None. A dict stands for both a Go map and a Go struct. A
dict's value may also be a Python callable: it is a method (`{{.Label "x"}}`), called with the arguments that follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rootless.cli.template.errors import TemplateError

if TYPE_CHECKING:
    from rootless.cli.template.execute import Template

__all__ = ["Template", "TemplateError"]


def __getattr__(name: str) -> object:
    """The language is imported (8 ms) when a template is made: most commands make none."""
    if name == "Template":
        from rootless.cli.template.execute import Template

        return Template
    raise AttributeError(name)
