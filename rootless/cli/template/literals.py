"""Go's literals: strings, character constants and numbers to values, and back to a quoted string."""

from __future__ import annotations

import re

_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}
_SIMPLE_BACK = {value: "\\" + name for name, value in _SIMPLE.items()}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)


def unquote(text: str) -> str:
    """A "quoted" or `raw` literal's value. Raises ValueError."""
    if text.startswith("`"):
        return text[1:-1].replace("\r", "")
    return _unescape(text[1:-1], '"')


def character(text: str) -> int:
    """A 'c' literal's code point. Raises ValueError."""
    value = _unescape(text[1:-1], "'")
    if len(value) != 1:
        raise ValueError(text)
    return ord(value)


def number(text: str) -> int | float:
    """Raises ValueError."""
    digits = text.lower()
    unsigned = digits.lstrip("+-")
    if unsigned[:2] in ("0x", "0b", "0o"):
        return int(digits, 0)
    if "." in digits or "e" in digits:
        return float(digits)
    if len(unsigned) > 1 and unsigned.startswith("0"):  # Go reads 017 as octal
        return int(digits, 8)
    value = int(digits)
    if value.bit_length() > 64:
        raise ValueError(text)
    return value


def _unescape(body: str, quote_character: str) -> str:
    """\\x and octal escapes are bytes in Go; runs of them are decoded as UTF-8 here."""

    def byte_value(match: re.Match[str]) -> str:
        hexadecimal, short, long, octal, other = match.groups()
        if hexadecimal or octal:
            value = int(hexadecimal, 16) if hexadecimal else int(octal, 8)
            if value > 255:
                raise ValueError(match.group())
            return chr(value) if value < 0x80 else chr(0xDC00 + value)
        if short or long:
            value = int(short or long, 16)
            if value > 0x10FFFF or 0xD800 <= value < 0xE000:
                raise ValueError(match.group())
            return chr(value)
        if other == quote_character:
            return quote_character
        if other not in _SIMPLE:
            raise ValueError(match.group())
        return _SIMPLE[other]

    value = _ESCAPE.sub(byte_value, body)
    if value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def quote(text: str) -> str:
    """strconv.Quote."""
    out = ['"']
    for c in text:
        if c == '"':
            out.append('\\"')
        elif c in _SIMPLE_BACK:
            out.append(_SIMPLE_BACK[c])
        elif c.isprintable():
            out.append(c)
        elif ord(c) < 0x80:
            out.append(f"\\x{ord(c):02x}")
        elif ord(c) < 0x10000:
            out.append(f"\\u{ord(c):04x}")
        else:
            out.append(f"\\U{ord(c):08x}")
    return "".join(out) + '"'
