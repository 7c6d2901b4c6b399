"""The parsed template: what the parser makes and the executor walks. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    position: int  # index in the text that an error at this node names
    source: str  # the text of the node, for `at <…>` in errors


@dataclass(frozen=True, slots=True)
class Literal(Node):
    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Dot(Node):
    pass


@dataclass(frozen=True, slots=True)
class Field(Node):
    """`.A.B`: names looked up from dot."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable(Node):
    """`$x.A`; `name` includes the dollar."""

    name: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain(Node):
    """`(pipeline).A.B`"""

    operand: Node
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function(Node):
    name: str


@dataclass(frozen=True, slots=True)
class Command(Node):
    """Operands; the first one may be a function or something callable."""

    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Pipeline(Node):
    commands: tuple[Command, ...]
    variables: tuple[str, ...] = ()
    assigns: bool = False  # `=` rather than `:=`


@dataclass(frozen=True, slots=True)
class Text(Node):
    text: str


@dataclass(frozen=True, slots=True)
class Action(Node):
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Branch(Node):
    """if, with, range."""

    kind: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Jump(Node):
    """break, continue."""

    kind: str


@dataclass(frozen=True, slots=True)
class Include(Node):
    """{{template "name" pipeline}}"""

    name: str
    pipeline: Pipeline | None
