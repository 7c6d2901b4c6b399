"""Go's view of JSON values: names of types, truth, `%v`, encoding/json. No template syntax here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring

from rootless.cli.template.errors import FunctionError


class Missing:
    """The value of a key that is not there: prints `<no value>`, is false, has no fields."""

    def __repr__(self) -> str:
        return "<no value>"


MISSING = Missing()


def type_name(value: object) -> str:
    if value is None or value is MISSING:
        return "<nil>"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, str):
        return "string"
    if isinstance(value, Mapping):
        return "map[string]interface {}"
    if isinstance(value, Sequence):
        return "[]interface {}"
    return "func()"


def truth(value: object) -> bool:
    """Neither zero nor empty."""
    return value is not MISSING and bool(value)


def utf8(text: str) -> bytes:
    """The bytes that Go would see (file names that are not UTF-8 arrive as lone surrogates)."""
    return text.encode("utf-8", "surrogateescape" if _escaped_bytes_only(text) else "surrogatepass")


def _escaped_bytes_only(text: str) -> bool:
    return (
        all(not 0xD800 <= ord(c) <= 0xDFFF or 0xDC80 <= ord(c) <= 0xDCFF for c in text) if not text.isascii() else True
    )


def format_float(value: float, exponent_from: int = 21) -> str:
    """strconv.FormatFloat 'g', shortest, with %v's larger threshold for the exponent form."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    mantissa, _, exponent_text = f"{value!r}".partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    if fraction == "0":
        fraction = ""
    point = len(whole) + int(exponent_text or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if not digits:
        return sign + "0"
    exponent = point - 1
    if exponent < -4 or exponent >= exponent_from:
        tail = "." + digits[1:] if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{tail}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    padded = digits.ljust(point, "0")
    return sign + padded[:point] + ("." + padded[point:] if len(padded) > point else "")


def format_value(value: object) -> str:
    """fmt's %v."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return format_float(value)
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{format_value(k)}:{format_value(v)}" for k, v in sorted_items(value)) + "]"
    if isinstance(value, Sequence):
        return "[" + " ".join(map(format_value, value)) + "]"
    return "<no value>" if value is MISSING else str(value)


def sorted_items(value: Mapping[str, object]) -> list[tuple[str, object]]:
    return sorted(value.items(), key=lambda item: str(item[0]))


def to_json(value: object) -> str:
    """encoding/json with HTML escaping off, as docker's `json` has it.

    Keys keep their order: that of a Go struct, where the engine followed it. Callables, methods to us, are left out."""
    if value is None or value is MISSING:
        return "null"
    if isinstance(value, str):
        text = encode_basestring(value).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        return text if text.isascii() else "".join("\ufffd" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)
    if isinstance(value, Mapping):
        members = (f"{to_json(str(k))}:{to_json(v)}" for k, v in value.items() if not callable(v))
        return "{" + ",".join(members) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(to_json, value)) + "]"
    if isinstance(value, float):
        return _json_float(value)
    if isinstance(value, (bool, int)):
        return format_value(value)
    raise FunctionError(f"json: unsupported type: {type_name(value)}")


def _json_float(value: float) -> str:
    if math.isnan(value) or math.isinf(value):
        raise FunctionError(f"json: unsupported value: {format_float(value)}")
    if value and abs(value) < 1e-6:
        return format_float(value).replace("e-0", "e-")
    return format_float(value) if abs(value) >= 1e21 or abs(value) >= 1e-4 or not value else f"{value:.20f}".rstrip("0")
