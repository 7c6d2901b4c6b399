"""fmt.Sprintf, Sprint and Sprintln for JSON values, with Go's complaints (`%!d(string=x)`) in the output."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from rootless.cli.template.literals import quote
from rootless.cli.template.values import MISSING, format_float, format_value, sorted_items, type_name, utf8

_VERB = re.compile(r"%([-+# 0]*)(\*|\d+)?(?:(\.)(\*|\d+)?)?(.)?", re.DOTALL)
_TOO_LARGE = 1_000_000  # fmt refuses wider fields


def sprint(arguments: Sequence[object]) -> str:
    """A space between operands when neither is a string."""
    out: list[str] = []
    for index, value in enumerate(arguments):
        if index and not isinstance(value, str) and not isinstance(arguments[index - 1], str):
            out.append(" ")
        out.append(_plain(value))
    return "".join(out)


def sprintln(arguments: Sequence[object]) -> str:
    return " ".join(map(_plain, arguments)) + "\n"


def _plain(value: object) -> str:
    return "<nil>" if value is MISSING else format_value(value)


def sprintf(text: str, arguments: Sequence[object]) -> str:
    rest = list(arguments)
    taken = 0

    def take() -> tuple[object, bool]:
        nonlocal taken
        if taken >= len(rest):
            return None, False
        taken += 1
        return rest[taken - 1], True

    def size(spelled: str | None, complaint: str) -> tuple[int | None, str, bool]:
        """(value, complaint, was negative)"""
        if spelled is None:
            return None, "", False
        value, _ = take() if spelled == "*" else (int(spelled[:9]), True)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _TOO_LARGE:
            return None, complaint, False
        return abs(value), "", value < 0

    def one(match: re.Match[str]) -> str:
        flags, width_text, point, precision_text, verb = match.groups()
        width, complaint, negative = size(width_text, "%!(BADWIDTH)")
        precision, second, below = size(precision_text, "%!(BADPREC)")
        if point and precision is None and not second:
            precision = 0
        if below:
            precision, second = None, "%!(BADPREC)"
        complaint += second
        if verb is None:
            return complaint + "%!(NOVERB)"
        if verb == "%":
            return complaint + "%"
        value, there = take()
        if not there:
            return f"{complaint}%!{verb}(MISSING)"
        return complaint + _format(verb, value, flags + ("-" if negative else ""), width, precision)

    out = _VERB.sub(one, text)
    if taken < len(rest):
        extra = ", ".join(
            "<nil>" if v is None or v is MISSING else f"{type_name(v)}={format_value(v)}" for v in rest[taken:]
        )
        out += f"%!(EXTRA {extra})"
    return out


def _format(verb: str, value: object, flags: str, width: int | None, precision: int | None) -> str:
    if value is MISSING:
        value = None
    if verb == "T":
        return _pad(type_name(value), flags, width)
    if value is None:
        return _pad("<nil>" if verb == "v" else f"%!{verb}(<nil>)", flags, width)
    if isinstance(value, Mapping) and verb not in "tp":
        inside = (
            f"{_format(verb, k, flags, width, precision)}:{_format(verb, v, flags, width, precision)}"
            for k, v in sorted_items(value)
        )
        return "map[" + " ".join(inside) + "]"
    if isinstance(value, Sequence) and not isinstance(value, str) and verb not in "tp":
        return "[" + " ".join(_format(verb, v, flags, width, precision) for v in value) + "]"
    text = _scalar(verb, value, flags, precision)
    if text is None:
        return f"%!{verb}({type_name(value)}={format_value(value)})"
    zero = "0" in flags and "-" not in flags and isinstance(value, (int, float)) and not isinstance(value, bool)
    if zero and width is not None and (precision is None or isinstance(value, float)) and verb not in "qcU":
        sign = text[0] if text[:1] in ("+", "-", " ") else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    return _pad(text, flags, width)


def _pad(text: str, flags: str, width: int | None) -> str:
    if width is None:
        return text
    return text.ljust(width) if "-" in flags else text.rjust(width)


def _scalar(verb: str, value: object, flags: str, precision: int | None) -> str | None:
    """The value without its padding; None where the verb does not fit the type."""
    if isinstance(value, bool):
        return format_value(value) if verb in "tv" else None
    if isinstance(value, int):
        return _integer(verb, value, flags, precision)
    if isinstance(value, float):
        return _float(verb, value, flags, precision)
    if isinstance(value, str):
        return _string(verb, value, flags, precision)
    return format_value(value) if verb == "v" else None


def _string(verb: str, value: str, flags: str, precision: int | None) -> str | None:
    short = value if precision is None else value[:precision]
    if verb == "q" or (verb == "v" and "#" in flags):
        return (
            f"`{short}`" if "#" in flags and verb == "q" and "`" not in short and short.isprintable() else quote(short)
        )
    if verb in "sv":
        return short
    if verb in "xX":
        data = utf8(value) if precision is None else utf8(value)[:precision]
        text = data.hex(" ") if " " in flags else data.hex()
        return text.upper() if verb == "X" else text
    return None


def _integer(verb: str, value: int, flags: str, precision: int | None) -> str | None:
    if verb in "cqU":
        if verb == "U":
            return f"U+{value:04X}" if value >= 0 else None
        character = chr(value) if 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000 else "\ufffd"
        return character if verb == "c" else "'" + quote(character)[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"
    if verb in "eEfFgG":
        return None
    digits = {"d": "d", "v": "d", "x": "x", "X": "X", "o": "o", "O": "o", "b": "b"}.get(verb)
    if digits is None:
        return None
    text = format(abs(value), digits)
    if precision is not None:
        text = text.rjust(precision, "0") if value or precision else ""
    prefix = {"x": "0x", "X": "0X", "o": "0", "b": "0b"}.get(verb, "") if "#" in flags else ""
    return _sign(value < 0, flags) + ("0o" if verb == "O" else prefix) + text


def _float(verb: str, value: float, flags: str, precision: int | None) -> str | None:
    if verb not in "eEfFgGv":
        return None
    if math.isnan(value) or math.isinf(value):
        return _sign(value < 0, flags) + (
            "NaN" if math.isnan(value) else "Inf" if flags.count("+") == 0 and value < 0 else "+Inf"
        )
    size = abs(value)
    if verb in "gGv":
        threshold = 21 if precision is None else precision or 1
        text = format_float(size, 21) if precision is None else format(size, f".{threshold}g")
    else:
        text = format(size, f".{6 if precision is None else precision}{verb}")
    return _sign(math.copysign(1, value) < 0, flags) + (text.upper() if verb == "G" else text)


def _sign(negative: bool, flags: str) -> str:
    return "-" if negative else "+" if "+" in flags else " " if " " in flags else ""
