"""JSON that others sent, as values that were looked at. Pure."""

from __future__ import annotations

import json
from typing import Any

from rootless.model.errors import InvalidParameter


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Raises InvalidParameter saying what is no JSON object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidParameter(f"{what} is not a JSON object")
    return value
