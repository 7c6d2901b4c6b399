"""Walks a parsed template over data and makes text. Owns scopes, field lookup, calls, and where an error happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rootless.cli.template import nodes
from rootless.cli.template.errors import FunctionError, TemplateError
from rootless.cli.template.functions import FUNCTIONS, LAZY
from rootless.cli.template.literals import quote
from rootless.cli.template.parser import Body, parse
from rootless.cli.template.values import MISSING, format_value, sorted_items, truth, type_name

_NO_FINAL = object()  # the first command of a pipeline has no value of an earlier one


class Template:
    """A parsed template. Raises TemplateError from the constructor and from `render`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._body, self._definitions = parse(text, {*FUNCTIONS, *LAZY})

    def render(self, data: object, *, strict: bool = False) -> str:
        """`strict`: a key that a map does not have is an error (Go's missingkey=error, as in `docker inspect`)
        instead of `<no value>`."""
        run = _Run(self.text, self._definitions, strict)
        try:
            run.body(self._body, data, [("$", data)])
        except RecursionError:
            raise TemplateError('template: : executing "": exceeded maximum template depth') from None
        return "".join(run.out)


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


_Variables = list[tuple[str, object]]


class _Run:
    def __init__(self, text: str, definitions: Mapping[str, Body], strict: bool) -> None:
        self.text = text
        self.definitions = definitions
        self.strict = strict
        self.out: list[str] = []

    def error(self, node: nodes.Node, message: str) -> TemplateError:
        line = self.text.count("\n", 0, node.position) + 1
        column = node.position - (self.text.rfind("\n", 0, node.position) + 1)
        context = node.source if len(node.source) <= 20 else node.source[:20] + "..."
        return TemplateError(f'template: :{line}:{column}: executing "" at <{context}>: {message}')

    # statements

    def body(self, body: Body, dot: object, variables: _Variables) -> None:
        for node in body:
            if isinstance(node, nodes.Text):
                self.out.append(node.text)
            elif isinstance(node, nodes.Action):
                value = self.pipeline(node.pipeline, dot, variables)
                if not node.pipeline.variables:
                    self.out.append(self.printed(node, value))
            elif isinstance(node, nodes.Branch):
                self.branch(node, dot, variables)
            elif isinstance(node, nodes.Include):
                self.include(node, dot, variables)
            elif isinstance(node, nodes.Jump):
                raise _Break if node.kind == "break" else _Continue

    def printed(self, node: nodes.Node, value: object) -> str:
        if callable(value):
            raise self.error(node, f"can't print {node.source} of type func()")
        return format_value(value)

    def branch(self, node: nodes.Branch, dot: object, variables: _Variables) -> None:
        mark = len(variables)
        if node.kind == "range":
            self.range(node, dot, variables)
        else:
            value = self.pipeline(node.pipeline, dot, variables)
            inner = value if node.kind == "with" and truth(value) else dot
            self.body(node.body if truth(value) else node.otherwise, inner, variables)
        del variables[mark:]

    def range(self, node: nodes.Branch, dot: object, variables: _Variables) -> None:
        plain = nodes.Pipeline(node.pipeline.position, node.pipeline.source, node.pipeline.commands)
        pairs = self.pairs(node, self.pipeline(plain, dot, variables))
        names = node.pipeline.variables
        ran = False
        mark = len(variables)
        for key, item in pairs:
            ran = True
            values = (item,) if len(names) == 1 else (key, item)
            for name, value in zip(names, values, strict=False):
                self.set(name, value, variables, node.pipeline.assigns)
            try:
                self.body(node.body, item, variables)
            except _Break:
                break
            except _Continue:
                pass
            finally:
                del variables[mark:]
        if not ran:
            self.body(node.otherwise, dot, variables)

    def pairs(self, node: nodes.Node, value: object) -> Sequence[tuple[object, object]] | enumerate[object]:
        if value is None or value is MISSING:
            return ()
        if isinstance(value, Mapping):
            return [(key, item) for key, item in sorted_items(value) if not callable(item)]
        if isinstance(value, Sequence) and not isinstance(value, str):
            return enumerate(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return enumerate(range(value))
        raise self.error(node, f"range can't iterate over {format_value(value)}")

    def include(self, node: nodes.Include, dot: object, variables: _Variables) -> None:
        if node.name not in self.definitions:
            raise self.error(node, f"template {quote(node.name)} not defined")
        inner = self.pipeline(node.pipeline, dot, variables) if node.pipeline else None
        self.body(self.definitions[node.name], inner, [("$", inner)])

    def set(self, name: str, value: object, variables: _Variables, assigns: bool) -> None:
        if assigns:
            for position in range(len(variables) - 1, -1, -1):
                if variables[position][0] == name:
                    variables[position] = (name, value)
                    return
        variables.append((name, value))

    # values

    def pipeline(self, node: nodes.Pipeline, dot: object, variables: _Variables) -> object:
        value: object = _NO_FINAL
        for command in node.commands:
            value = self.command(command, dot, variables, value)
        for name in node.variables:
            self.set(name, value, variables, node.assigns)
        return value

    def command(self, node: nodes.Command, dot: object, variables: _Variables, final: object) -> object:
        first, *rest = node.operands
        if isinstance(first, nodes.Function):
            return self.function(node, first.name, rest, dot, variables, final)
        if isinstance(first, (nodes.Field, nodes.Variable, nodes.Chain)):
            arguments = [self.operand(operand, dot, variables) for operand in rest]
            if final is not _NO_FINAL:
                arguments.append(final)
            return self.operand(first, dot, variables, arguments)
        if rest or final is not _NO_FINAL:
            raise self.error(first, f"can't give argument to non-function {first.source}")
        if isinstance(first, nodes.Literal) and first.value is None:
            raise self.error(first, "nil is not a command")
        return self.operand(first, dot, variables)

    def operand(self, node: nodes.Node, dot: object, variables: _Variables, arguments: Sequence[object] = ()) -> object:
        if isinstance(node, nodes.Literal):
            return node.value
        if isinstance(node, nodes.Dot):
            return dot
        if isinstance(node, nodes.Field):
            return self.fields(node, dot, node.names, arguments)
        if isinstance(node, nodes.Variable):
            value = next(value for name, value in reversed(variables) if name == node.name)
            return self.fields(node, value, node.names, arguments)
        if isinstance(node, nodes.Chain):
            return self.fields(node, self.operand(node.operand, dot, variables), node.names, arguments)
        if isinstance(node, nodes.Pipeline):
            return self.pipeline(node, dot, variables)
        if isinstance(node, nodes.Function):
            return self.function(node, node.name, [], dot, variables, _NO_FINAL)
        raise self.error(node, f"can't handle {node.source}")

    def fields(self, node: nodes.Node, value: object, names: Sequence[str], arguments: Sequence[object]) -> object:
        if not names and arguments:
            raise self.error(node, f"can't give argument to non-function {node.source}")
        for position, name in enumerate(names):
            value = self.field(node, value, name, arguments if position == len(names) - 1 else ())
        return value

    def field(self, node: nodes.Node, value: object, name: str, arguments: Sequence[object]) -> object:
        if value is MISSING:
            found: object = MISSING
        elif value is None:
            raise self.error(node, f"nil pointer evaluating interface {{}}.{name}")
        elif isinstance(value, Mapping):
            found = value.get(name, MISSING)
        else:
            raise self.error(node, f"can't evaluate field {name} in type {type_name(value)}")
        if found is MISSING and self.strict:
            raise self.error(node, f"map has no entry for key {quote(name)}")
        if callable(found):
            return self.call(node, name, found, arguments)
        if arguments:
            raise self.error(node, f"{name} has arguments but cannot be invoked as function")
        return found

    def call(self, node: nodes.Node, name: str, function: Callable[..., object], arguments: Sequence[object]) -> object:
        try:
            return function(*arguments)
        except (FunctionError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise self.error(node, f"error calling {name}: {error}") from error

    # functions

    def function(
        self,
        node: nodes.Node,
        name: str,
        operands: Sequence[nodes.Node],
        dot: object,
        variables: _Variables,
        final: object,
    ) -> object:
        count = len(operands) + (final is not _NO_FINAL)
        least, most = (1, None) if name in LAZY else FUNCTIONS[name][1:]
        if count < least or (most is not None and count > most):
            want = str(least) if most == least else f"at least {least}"
            raise self.error(node, f"wrong number of args for {name}: want {want} got {count}")
        if name in ("and", "or"):
            return self.logic(name == "or", operands, dot, variables, final)
        arguments = [self.operand(operand, dot, variables) for operand in operands]
        if final is not _NO_FINAL:
            arguments.append(final)
        return self.call(node, name, FUNCTIONS[name].function, arguments)

    def logic(
        self, stop: bool, operands: Sequence[nodes.Node], dot: object, variables: _Variables, final: object
    ) -> object:
        """and, or: the first operand that decides, else the last one."""
        value: object = None
        for operand in operands:
            value = self.operand(operand, dot, variables)
            if truth(value) is stop:
                return value
        return value if final is _NO_FINAL else final
