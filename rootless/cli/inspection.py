"""`inspect` of anything: names -> objects, printed as an indented JSON list or through a template."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from rootless.cli.invocation import Invocation, error_text
from rootless.cli.listing import go_json, parsed
from rootless.cli.template import TemplateError
from rootless.model.errors import RootlessError


def inspect(
    invocation: Invocation, names: Sequence[str], format_text: str, find: Callable[[str], Any], prefix: str = ""
) -> int:
    """Print what `find` gives for each name; complain of those it has nothing for. Returns the exit code.

    Raises TemplateError where the template cannot be read."""
    template = parsed(format_text) if format_text not in ("", "json") else None
    found: list[Any] = []
    complaints: list[str] = []
    for name in names:
        try:
            found.append(find(name))
            if template is not None:
                invocation.say(template.render(found[-1], strict=True))
        except RootlessError as error:
            complaints.append(prefix + error_text(error))
        except TemplateError as error:
            complaints.append(f"template parsing error: {error}")
            break
    if template is None:
        invocation.say(go_json(found) if format_text == "json" else indented(found))
    for complaint in complaints:
        invocation.complain(complaint)
    return 1 if complaints else 0


def indented(value: object) -> str:
    """JSON for people: four blanks a level."""
    return json.dumps(value, indent=4, ensure_ascii=False)
