"""Lists as docker prints them: an aligned table, JSON lines, or a template of the user's. Pure.

A row is a dictionary of docker's placeholder names. A name that is a method (`{{.Label "x"}}`) is a callable; those are
in no JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rootless.cli.template import TemplateError

if TYPE_CHECKING:
    from rootless.cli.template import Template

Row = Mapping[str, Any]
MINIMUM_WIDTH = 10
GAP = 3


def render(rows: Iterable[Row], headers: Mapping[str, str], format_text: str, default: str, quiet: str = "") -> str:
    """The whole list, with a line feed at the end of each line.

    `format_text` is --format's value, `default` the template of the table without one; `quiet` names the one
    placeholder that -q prints. Raises TemplateError."""
    if quiet and format_text in ("", "table"):
        return "".join(f"{row[quiet]}\n" for row in rows)
    if format_text == "json":
        return "".join(_json_line(row) for row in rows)
    if format_text == "table" or format_text.startswith("table ") or not format_text:
        text = format_text.removeprefix("table").lstrip() or default
        template = parsed(_unescape(text))
        titles = {**headers, "Label": _label_header}
        lines = [executed(template, titles), *(executed(template, row) for row in rows)]
        return align([line for text in lines for line in text.split("\n")])
    template = parsed(_unescape(format_text))
    return "".join(executed(template, row) + "\n" for row in rows)


def parsed(text: str) -> Template:
    """A template. Raises TemplateError with docker's prefix."""
    from rootless.cli.template import Template

    try:
        return Template(text)
    except TemplateError as error:
        raise TemplateError(f"template parsing error: {error}") from None


def executed(template: Template, data: object) -> str:
    """A template with its values; a name that is not there is an error. Raises TemplateError with docker's prefix."""
    try:
        return template.render(data, strict=True)
    except TemplateError as error:
        raise TemplateError(f"failed to execute template: {error}") from None


def align(lines: Iterable[str]) -> str:
    """Columns are separated by tabs; each as wide as its widest cell and the gap, and no less than ten."""
    rows = [line.split("\t") for line in lines]
    widths: dict[int, int] = {}
    for row in rows:
        for at, cell in enumerate(row[:-1]):
            widths[at] = max(widths.get(at, MINIMUM_WIDTH), len(cell) + GAP)
    return "".join(
        "".join(f"{cell:<{widths[at]}}" for at, cell in enumerate(row[:-1])) + row[-1] + "\n" for row in rows
    )


def label_method(labels: Mapping[str, str] | None) -> Callable[[str], str]:
    """What `{{.Label "x"}}` calls."""
    return lambda name: (labels or {}).get(name, "")


def _label_header(name: str) -> str:
    return name.rpartition(".")[2].replace("-", " ").replace("_", " ")


def go_json(value: object) -> str:
    """JSON as Go writes it: names sorted, no blanks, `<`, `>` and `&` as escapes."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _json_line(row: Row) -> str:
    return go_json({name: value for name, value in row.items() if not callable(value)}) + "\n"


def _unescape(text: str) -> str:
    return text.replace("\\t", "\t").replace("\\n", "\n")
