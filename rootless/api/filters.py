"""The `filters` parameter of the lists: {"name": ["x"]} or, as older clients write it, {"name": {"x": true}}. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from rootless.model.errors import InvalidParameter

Filters = Mapping[str, list[str]]


def parse(text: str, known: Collection[str]) -> dict[str, list[str]]:
    """Raises InvalidParameter."""
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidParameter(f"invalid filter: {error}") from None
    if not isinstance(value, dict):
        raise InvalidParameter("invalid filter: an object is needed")
    found: dict[str, list[str]] = {}
    for name, values in value.items():
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")
        if isinstance(values, dict):
            values = [item for item, wanted in values.items() if wanted]
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise InvalidParameter(f"invalid filter '{name}': a list of strings is needed")
        found[name] = values
    return found


def labels_match(wanted: list[str], labels: Mapping[str, str]) -> bool:
    """Every `key` or `key=value` holds."""
    for text in wanted:
        key, equals, value = text.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def boolean(filters: Filters, name: str) -> bool | None:
    """Raises InvalidParameter."""
    values = filters.get(name)
    if not values:
        return None
    if values[0].lower() in ("1", "true", "t"):
        return True
    if values[0].lower() in ("0", "false", "f"):
        return False
    raise InvalidParameter(f"invalid filter '{name}={values[0]}'")
