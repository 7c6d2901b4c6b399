"""The functions of a template: Go's predefined ones and docker's (json, join, split, title, lower, upper, pad,
truncate, println). Each takes its arguments positionally and raises FunctionError.

`and` and `or` are the executor's: they decide themselves what is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn
from urllib.parse import quote_plus

from rootless.cli.template.errors import FunctionError
from rootless.cli.template.printf import sprint, sprintf, sprintln
from rootless.cli.template.values import MISSING, to_json, truth, type_name, utf8


class Entry(NamedTuple):
    function: Callable[..., object]
    least: int
    most: int | None  # None: any number


def _wrong(value: object, expected: str) -> NoReturn:
    raise FunctionError(f"wrong type for value; expected {expected}; got {type_name(value)}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        _wrong(value, "string")
    return value


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        _wrong(value, "int")
    return value


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def join(items: object, separator: object) -> str:
    if items is None or items is MISSING:  # a nil slice
        items = ()
    if not isinstance(items, Sequence) or isinstance(items, str):
        _wrong(items, "[]string")
    return _text(separator).join(_text(item) for item in items)


def split(text: object, separator: object) -> list[str]:
    return _text(text).split(_text(separator)) if _text(separator) else list(_text(text))


def title(text: object) -> str:
    """strings.Title: the first letter of every word."""
    out: list[str] = []
    before = " "
    for c in _text(text):
        starts = not (before.isalnum() or before == "_") if before.isascii() else before.isspace()
        out.append(c.title() if starts and len(c.title()) == 1 else c)
        before = c
    return "".join(out)


def pad(text: object, before: object, after: object) -> str:
    """Spaces around a text, none around an empty one."""
    counts = (_int(before), _int(after))
    if min(counts) < 0 or max(counts) > 1_000_000:
        raise FunctionError("strings: negative or excessive Repeat count")
    return " " * counts[0] + _text(text) + " " * counts[1] if text else _text(text)


def truncate(text: object, length: object) -> str:
    """The first `length` bytes."""
    data = utf8(_text(text))
    if _int(length) < 0:
        raise FunctionError("slice bounds out of range")
    return _text(text) if len(data) < _int(length) else data[: _int(length)].decode("utf-8", "replace")


def printf(text: object, *arguments: object) -> str:
    return sprintf(_text(text), arguments)


def length(value: object) -> int:
    if isinstance(value, str):
        return len(utf8(value))
    if isinstance(value, (Mapping, Sequence)):
        return len(value)
    if value is None or value is MISSING:
        raise FunctionError("len of nil pointer")
    raise FunctionError(f"len of type {type_name(value)}")


def index(value: object, *keys: object) -> object:
    for key in keys:
        if value is None or value is MISSING:
            raise FunctionError("index of untyped nil")
        if isinstance(value, Mapping):
            if not isinstance(key, str):
                raise FunctionError(f"value has type {type_name(key)}; should be string")
            value = value.get(key, MISSING)
        elif isinstance(value, Sequence):
            items: Sequence[object] = utf8(value) if isinstance(value, str) else value
            value = items[_position(key, len(items) - 1)]
        else:
            raise FunctionError(f"can't index item of type {type_name(value)}")
    return value


def _position(key: object, last: int) -> int:
    if not isinstance(key, int) or isinstance(key, bool):
        raise FunctionError(f"cannot index slice/array with type {type_name(key)}")
    if not 0 <= key <= last:
        raise FunctionError(f"index out of range: {key}")
    return key


def cut(value: object, *bounds: object) -> object:
    """slice"""
    if value is None or value is MISSING:
        raise FunctionError("slice of untyped nil")
    if not isinstance(value, Sequence):
        raise FunctionError(f"can't slice item of type {type_name(value)}")
    if len(bounds) > 3 or (len(bounds) == 3 and isinstance(value, str)):
        raise FunctionError(
            "cannot 3-index slice a string" if isinstance(value, str) else f"too many slice indexes: {len(bounds)}"
        )
    items: Sequence[object] = utf8(value) if isinstance(value, str) else value
    start, stop = ([*(_position(b, len(items)) for b in bounds), *(0, len(items))[len(bounds) :]])[:2]
    if start > stop:
        raise FunctionError(f"invalid slice index: {start} > {stop}")
    part = items[start:stop]
    return part.decode("utf-8", "replace") if isinstance(part, bytes) else part


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"  # more lenient than Go: JSON does not tell 0 from 0.0
    if isinstance(value, str):
        return "string"
    return "nil" if value is None or value is MISSING else "other"


def _equal(left: object, right: object) -> bool:
    kinds = {_kind(left), _kind(right)}
    if "nil" in kinds:
        return kinds == {"nil"}
    if "other" in kinds:
        wrong = left if _kind(left) == "other" else right
        raise FunctionError(f"non-comparable type {type_name(wrong)}")
    if len(kinds) > 1:
        raise FunctionError("incompatible types for comparison")
    return left == right


def eq(left: object, *rights: object) -> bool:
    if not rights:
        raise FunctionError("missing argument for comparison")
    return any(_equal(left, right) for right in rights)


def ne(left: object, right: object) -> bool:
    return not _equal(left, right)


def lt(left: object, right: object) -> bool:
    kinds = (_kind(left), _kind(right))
    if any(kind not in ("number", "string") for kind in kinds):
        raise FunctionError("invalid type for comparison")
    if kinds[0] != kinds[1]:
        raise FunctionError("incompatible types for comparison")
    return utf8(left) < utf8(right) if isinstance(left, str) and isinstance(right, str) else left < right  # type: ignore[operator]


def le(left: object, right: object) -> bool:
    return lt(left, right) or _equal(left, right)


_HTML = str.maketrans({"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"})
_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}


def _evaluated(arguments: Sequence[object]) -> str:
    first = arguments[0] if len(arguments) == 1 else None
    return first if isinstance(first, str) else sprint(arguments)


def html(*arguments: object) -> str:
    return _evaluated(arguments).translate(_HTML)


def js(*arguments: object) -> str:
    return "".join(_JS.get(c, c if c.isprintable() else f"\\u{ord(c):04X}") for c in _evaluated(arguments))


def urlquery(*arguments: object) -> str:
    return quote_plus(utf8(_evaluated(arguments)))


FUNCTIONS: dict[str, Entry] = {
    # docker's
    "json": Entry(to_json, 1, 1),
    "join": Entry(join, 2, 2),
    "split": Entry(split, 2, 2),
    "title": Entry(title, 1, 1),
    "lower": Entry(lambda text: _text(text).lower(), 1, 1),
    "upper": Entry(lambda text: _text(text).upper(), 1, 1),
    "pad": Entry(pad, 3, 3),
    "truncate": Entry(truncate, 2, 2),
    # Go's
    "print": Entry(lambda *arguments: sprint(arguments), 0, None),
    "println": Entry(lambda *arguments: sprintln(arguments), 0, None),
    "printf": Entry(printf, 1, None),
    "len": Entry(length, 1, 1),
    "index": Entry(index, 1, None),
    "slice": Entry(cut, 1, None),
    "eq": Entry(eq, 1, None),
    "ne": Entry(ne, 2, 2),
    "lt": Entry(lt, 2, 2),
    "le": Entry(le, 2, 2),
    "gt": Entry(lambda left, right: not le(left, right), 2, 2),
    "ge": Entry(lambda left, right: not lt(left, right), 2, 2),
    "not": Entry(lambda value: not truth(value), 1, 1),
    "html": Entry(html, 0, None),
    "js": Entry(js, 0, None),
    "urlquery": Entry(urlquery, 0, None),
}

LAZY = frozenset({"and", "or"})
