"""Text to tokens. Owns delimiters, trim markers, comments and the spelling of literals; leaves grammar to the parser.

As in Go, a space is a token inside an action: `.A.B` is one operand, `.A .B` are two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from rootless.cli.template.errors import TemplateError

KEYWORDS = frozenset("block break continue define else end if range template with nil".split())

TRIM = " \t\r\n"

# One alternative a token kind; the order matters (":=" before "=", numbers before fields: ".5" is a number).
_ACTION = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<raw>`[^`]*`)
  | (?P<char>'(?:[^'\\\n]|\\.)+')
  | (?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+
                     |(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?))
  | (?P<field>\.[^\W\d]\w*)
  | (?P<variable>\$\w*)
  | (?P<word>[^\W\d]\w*)
  | (?P<declare>:=)
  | (?P<assign>=)
  | (?P<pipe>\|)
  | (?P<comma>,)
  | (?P<left>\()
  | (?P<right>\))
  | (?P<dot>\.)
    """,
    re.VERBOSE,
)
_TERMINATORS = frozenset(" \t\r\n.,|:()=}")


class Token(NamedTuple):
    """kind: "text", "open", "close", "eof", "keyword", or a group name of the pattern above."""

    kind: str
    text: str
    position: int  # index in the template's text


def tokens(text: str) -> Iterator[Token]:
    """All tokens of a template, ending with "eof". Raises TemplateError."""
    position = 0
    trim_next = False
    while True:
        start = text.find("{{", position)
        chunk = text[position:] if start < 0 else text[position:start]
        if trim_next:
            chunk = chunk.lstrip(TRIM)
        inside = start + 2
        trims_before = start >= 0 and text[inside : inside + 1] == "-" and text[inside + 1 : inside + 2] in set(TRIM)
        if trims_before:
            chunk = chunk.rstrip(TRIM)
            inside += 1
        if chunk:
            yield Token("text", chunk, position)
        if start < 0:
            yield Token("eof", "", len(text))
            return
        after = _after_comment(text, inside)
        if after is not None:
            position, trim_next = after
            continue
        yield Token("open", "{{", start)
        closing = None
        for closing in _action_tokens(text, inside):
            yield closing
        assert closing is not None  # _action_tokens ends with "close" or raises
        position = closing.position + len(closing.text)
        trim_next = closing.text != "}}"


def _after_comment(text: str, inside: int) -> tuple[int, bool] | None:
    """If an action is a comment: (position behind it, whether it trims what follows)."""
    begin = inside
    while text[begin : begin + 1] and text[begin] in TRIM and begin - inside < 1:
        begin += 1  # only `{{- /*` has a space before the comment
    if not text.startswith("/*", begin):
        return None
    end = text.find("*/", begin)
    if end < 0:
        raise error_at(text, begin, "unclosed comment")
    end += 2
    if text.startswith("}}", end):
        return end + 2, False
    if text[end : end + 1] in set(TRIM) and text.startswith("-}}", end + 1):
        return end + 4, True
    raise error_at(text, begin, "comment ends before closing delimiter")


def _action_tokens(text: str, position: int) -> Iterator[Token]:
    depth = 0
    while True:
        if closing := _closing(text, position):
            if depth:
                raise error_at(text, position, "unclosed left paren")
            yield closing
            return
        match = _ACTION.match(text, position)
        if match is None or match.lastgroup is None:
            raise error_at(text, position, _complaint(text, position))
        kind, value = match.lastgroup, match.group()
        position = match.end()
        if kind in ("field", "variable", "word", "number") and text[position : position + 1] not in _TERMINATORS:
            if kind == "number":
                raise error_at(text, match.start(), f'bad number syntax: "{text[match.start() : position + 1]}"')
            raise error_at(text, position, _bad_character(text, position))
        if kind == "left":
            depth += 1
        elif kind == "right":
            depth -= 1
            if depth < 0:
                raise error_at(text, match.start(), "unexpected right paren")
        elif kind == "word" and value in KEYWORDS:
            kind = "keyword"
        yield Token(kind, value, match.start())


def _closing(text: str, position: int) -> Token | None:
    if text.startswith("}}", position):
        return Token("close", "}}", position)
    if text[position : position + 1] in set(TRIM) and text.startswith("-}}", position + 1):
        return Token("close", text[position : position + 4], position)
    return None


def _complaint(text: str, position: int) -> str:
    first = text[position : position + 1]
    if first == "":
        return "unclosed action"
    if first == '"':
        return "unterminated quoted string"
    if first == "`":
        return "unterminated raw quoted string"
    if first == "'":
        return "unterminated character constant"
    if first == ":":
        return "expected :="
    return "unexpected " + _bad_character(text, position) + " in command"


def _bad_character(text: str, position: int) -> str:
    if position >= len(text):
        return "unclosed action"
    return f"bad character U+{ord(text[position]):04X} '{text[position]}'"


def error_at(text: str, position: int, message: str) -> TemplateError:
    """A parse error in Go's words."""
    line = text.count("\n", 0, position) + 1
    return TemplateError(f"template: :{line}: {message}")
