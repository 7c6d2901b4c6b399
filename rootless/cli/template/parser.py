"""Tokens to nodes. Owns the grammar and the check that variables and functions are defined; executes nothing."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from rootless.cli.template import nodes
from rootless.cli.template.errors import TemplateError
from rootless.cli.template.lexer import Token, error_at, tokens
from rootless.cli.template.literals import character, number, quote, unquote

Body = tuple[nodes.Node, ...]


class Parsed(NamedTuple):
    body: Body
    definitions: dict[str, Body]


def parse(text: str, functions: Container[str]) -> Parsed:
    """Raises TemplateError."""
    parser = _Parser(text, functions)
    try:
        body, ending = parser.body(ends=())
    except RecursionError:
        raise TemplateError("template: : too deeply nested") from None
    assert ending == "eof"
    return Parsed(body, parser.definitions)


class _Parser:
    def __init__(self, text: str, functions: Container[str]) -> None:
        self.text = text
        self.functions = functions
        self.tokens = list(tokens(text))
        self.index = 0
        self.variables = ["$"]
        self.range_depth = 0
        self.definitions: dict[str, Body] = {}

    # tokens

    def next(self) -> Token:
        token = self.tokens[self.index]
        self.index = min(self.index + 1, len(self.tokens) - 1)
        return token

    def peek(self) -> Token:
        return self.tokens[self.index]

    def skip_space(self) -> None:
        while self.peek().kind == "space":
            self.index += 1

    def next_solid(self) -> Token:
        self.skip_space()
        return self.next()

    def peek_solid(self) -> Token:
        self.skip_space()
        return self.peek()

    def error(self, token: Token, message: str) -> TemplateError:
        return error_at(self.text, token.position, message)

    def unexpected(self, token: Token, context: str) -> TemplateError:
        what = {"eof": "EOF", "keyword": f"<{token.text}>"}.get(token.kind, quote(token.text))
        return self.error(token, f"unexpected {what} in {context}")

    def expect(self, kind: str, context: str) -> Token:
        token = self.next_solid()
        if token.kind != kind:
            raise self.unexpected(token, context)
        return token

    def source(self, start: int) -> str:
        """The template's text from `start` to before the next token that is not a space."""
        return self.text[start : self.peek().position].rstrip()

    # bodies

    def body(self, ends: tuple[str, ...]) -> tuple[Body, str]:
        """Nodes up to one of `ends` ({{end}}, {{else}}; consumed as far as the keyword) or to the end of the text."""
        found: list[nodes.Node] = []
        while True:
            token = self.next()
            if token.kind == "eof":
                if ends:
                    raise self.error(token, "unexpected EOF")
                return tuple(found), "eof"
            if token.kind == "text":
                found.append(nodes.Text(token.position, token.text, token.text))
                continue
            word = self.peek_solid()
            if word.kind == "keyword" and word.text in ("end", "else"):
                self.next()
                if word.text not in ends:
                    raise self.error(word, f"unexpected {{{{{word.text}}}}}")
                return tuple(found), word.text
            node = self.action()
            if node is not None:
                found.append(node)

    def action(self) -> nodes.Node | None:
        token = self.peek_solid()
        if token.kind == "keyword" and token.text != "nil":
            self.next()
            if token.text in ("if", "with", "range"):
                return self.branch(token)
            if token.text in ("break", "continue"):
                if not self.range_depth:
                    raise self.error(token, f"{{{{{token.text}}}}} outside {{{{range}}}}")
                self.expect("close", f"{{{{{token.text}}}}}")
                return nodes.Jump(token.position, token.text, token.text)
            if token.text == "template":
                return self.include(token)
            return self.definition(token)
        pipeline = self.pipeline("command", "close")
        return nodes.Action(pipeline.position, pipeline.source, pipeline)

    def branch(self, token: Token) -> nodes.Branch:
        mark = len(self.variables)
        pipeline = self.pipeline(token.text, "close")
        self.range_depth += token.text == "range"
        body, ending = self.body(("end", "else"))
        self.range_depth -= token.text == "range"
        otherwise: Body = ()
        if ending == "else":
            word = self.peek_solid()
            if word.kind == "keyword" and word.text == token.text and token.text in ("if", "with"):
                self.next()
                otherwise = (self.branch(word),)  # `else if` shares the {{end}}
                del self.variables[mark:]
                return nodes.Branch(token.position, pipeline.source, token.text, pipeline, body, otherwise)
            self.expect("close", "else")
            otherwise, ending = self.body(("end",))
        self.expect("close", "end")
        del self.variables[mark:]
        return nodes.Branch(token.position, pipeline.source, token.text, pipeline, body, otherwise)

    def include(self, token: Token) -> nodes.Include:
        name = self.name("template clause")
        pipeline = None
        if self.peek_solid().kind == "close":
            self.next()
        else:
            pipeline = self.pipeline("template clause", "close")
        return nodes.Include(token.position, self.source(token.position), name, pipeline)

    def definition(self, token: Token) -> nodes.Include | None:
        """define, block."""
        name = self.name(f"{token.text} clause")
        pipeline = None
        if token.text == "block":
            pipeline = self.pipeline("block clause", "close")
        else:
            self.expect("close", "define clause")
        outer, self.variables = self.variables, ["$"]
        depth, self.range_depth = self.range_depth, 0
        body, _ = self.body(("end",))
        self.expect("close", "end")
        self.variables, self.range_depth = outer, depth
        self.definitions[name] = body
        return nodes.Include(token.position, token.text, name, pipeline) if pipeline else None

    def name(self, context: str) -> str:
        token = self.next_solid()
        if token.kind not in ("string", "raw"):
            raise self.unexpected(token, context)
        return self.literal(token)

    # pipelines

    def pipeline(self, context: str, end: str) -> nodes.Pipeline:
        start = self.peek_solid().position
        variables, assigns = self.declarations(context)
        commands: list[nodes.Command] = []
        while True:
            token = self.peek_solid()
            if token.kind == end:
                source = self.source(start)
                self.next()
                break
            commands.append(self.command())
        if not commands:
            raise self.error(token, f"missing value for {context}")
        for command in commands[1:]:
            if isinstance(command.operands[0], (nodes.Literal, nodes.Dot)):
                raise self.error(token, f"non executable command in pipeline stage {commands.index(command) + 1}")
        if not assigns:
            self.variables.extend(variables)
        return nodes.Pipeline(start, source, tuple(commands), variables, assigns)

    def declarations(self, context: str) -> tuple[tuple[str, ...], bool]:
        """`$x :=`, `$x =`, and for range `$i, $v :=`; nothing is consumed where there is none."""
        begin = self.index
        names: list[str] = []
        while (token := self.peek_solid()).kind == "variable":
            self.next()
            names.append(token.text)
            separator = self.next_solid()
            if separator.kind == "comma" and context == "range" and len(names) < 2:
                continue
            if separator.kind == "comma" and context == "range":
                raise self.error(separator, "too many declarations in range")
            if separator.kind in ("declare", "assign"):
                for name in names:
                    if separator.kind == "assign" and name not in self.variables:
                        raise self.error(token, f'undefined variable "{name}"')
                return tuple(names), separator.kind == "assign"
            break
        self.index = begin
        return (), False

    def command(self) -> nodes.Command:
        start = self.peek_solid().position
        operands: list[nodes.Node] = []
        while True:
            operand = self.operand()
            if operand is not None:
                operands.append(operand)
            token = self.peek()
            if token.kind == "space":
                self.next()
                if self.peek().kind not in ("pipe", "close", "right"):
                    continue
                token = self.peek()
            if token.kind == "pipe":
                source = self.source(start)
                self.next()
                if self.peek_solid().kind in ("close", "right"):
                    raise self.error(self.peek(), "missing value for command")
            elif token.kind in ("close", "right"):
                source = self.source(start)
            else:
                raise self.unexpected(token, "operand")
            break
        if not operands:
            raise self.error(token, "empty command")
        return nodes.Command(start, source, tuple(operands))

    def operand(self) -> nodes.Node | None:
        start = self.peek().position
        node = self.term()
        if node is None or self.peek().kind != "field":
            return node
        position = self.peek().position
        names: list[str] = []
        while self.peek().kind == "field":
            names.append(self.next().text[1:])
        source = self.source(start)
        chained = tuple(names)
        if isinstance(node, nodes.Field):
            return nodes.Field(position, source, node.names + chained)
        if isinstance(node, nodes.Variable):
            return nodes.Variable(position, source, node.name, chained)
        if isinstance(node, (nodes.Literal, nodes.Dot)):
            raise error_at(self.text, position, f"unexpected . after term {quote(node.source)}")
        return nodes.Chain(position, source, node, chained)

    def term(self) -> nodes.Node | None:
        token = self.peek()
        position, text = token.position, token.text
        if token.kind == "word" and text not in ("true", "false"):
            if text not in self.functions:
                raise self.error(token, f'function "{text}" not defined')
            node: nodes.Node = nodes.Function(position, text, text)
        elif token.kind == "dot":
            node = nodes.Dot(position, text)
        elif token.kind == "field":
            node = nodes.Field(position, text, (text[1:],))
        elif token.kind == "variable":
            if text not in self.variables:
                raise self.error(token, f'undefined variable "{text}"')
            node = nodes.Variable(position, text, text, ())
        elif token.kind in ("word", "string", "raw", "char", "number") or text == "nil":
            node = nodes.Literal(position, text, self.value(token))
        elif token.kind == "left":
            self.next()
            return self.pipeline("parenthesized pipeline", "right")
        else:
            return None
        self.next()
        return node

    def value(self, token: Token) -> str | int | float | bool | None:
        if token.kind == "word":
            return token.text == "true"
        if token.kind == "keyword":
            return None
        if token.kind in ("string", "raw"):
            return self.literal(token)
        try:
            return character(token.text) if token.kind == "char" else number(token.text)
        except ValueError:
            raise self.error(token, f'bad number syntax: "{token.text}"') from None

    def literal(self, token: Token) -> str:
        try:
            return unquote(token.text)
        except ValueError:
            raise self.error(token, "invalid syntax") from None
