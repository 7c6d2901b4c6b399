"""Every field of a request, given everything that it is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rootless.model import request_types
from rootless.model.errors import InvalidParameter
from rootless.model.request_types import EachOf, Words, check_types

REQUESTS = {
    name: getattr(request_types, name)
    for name in ("CONTAINER", "ENDPOINT", "NETWORK", "CONNECT", "DISCONNECT", "EXEC", "EXEC_START")
}
VALUES: list[Any] = [
    "",
    "a",
    0,
    5,
    1 << 63,
    1.5,
    True,
    [],
    [5],
    ["a"],
    [None],
    {},
    {"80/tcp": 5},
    "a\0",
    ["a\0"],
    "\ud800",
]


def fields(kind: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place in a request: the keys that lead to it, and what it must be."""
    if path:
        yield path, kind
    if isinstance(kind, list):
        yield from fields(kind[0], (*path, 0))
    elif isinstance(kind, EachOf):
        yield from fields(kind.kind, (*path, "80/tcp"))
    elif isinstance(kind, dict):
        for name, its in kind.items():
            yield from fields(its, (*path, name))


def request_with(path: tuple[Any, ...], value: Any) -> Any:
    for key in reversed(path):
        value = [value] if key == 0 else {key: value}
    return value


def fits(value: Any, kind: Any) -> bool:
    """Said once more, in other words."""
    if isinstance(kind, Words):
        return fits(value, str) or fits(value, [str])
    if kind is str:
        return isinstance(value, str) and value not in ("a\0", "\ud800")
    if kind is bool:
        return value is True
    if kind is int:
        return value in (0, 5) and value is not True
    if isinstance(kind, list):
        null = not isinstance(kind[0], type)
        return isinstance(value, list) and all((item is None and null) or fits(item, kind[0]) for item in value)
    if isinstance(kind, EachOf):
        return isinstance(value, dict) and all(fits(item, kind.kind) for item in value.values())
    return isinstance(value, dict)


@pytest.mark.parametrize("name", REQUESTS)
def test_what_a_field_is_not_is_refused_by_its_name(name: str) -> None:
    for path, kind in fields(REQUESTS[name]):
        for value in VALUES:
            request = request_with(path, value)
            if fits(value, kind):
                check_types(request, REQUESTS[name])
                continue
            shown = "".join(f"[{key}]" if key == 0 else f".{key}" for key in path).lstrip(".")
            with pytest.raises(InvalidParameter) as caught:
                check_types(request, REQUESTS[name])
            assert caught.value.message.startswith(shown), (request, caught.value.message)


@pytest.mark.parametrize(
    ("request_body", "words"),
    [
        ({"HostConfig": {"PortBindings": {"80/tcp": 5}}}, "HostConfig.PortBindings.80/tcp must be a list"),
        ({"HostConfig": {"PortBindings": {"80/tcp": "80"}}}, "HostConfig.PortBindings.80/tcp must be a list"),
        ({"HostConfig": {"PortBindings": {"80/tcp": {}}}}, "HostConfig.PortBindings.80/tcp must be a list"),
        ({"HostConfig": {"Binds": ["/a:/b", 5]}}, "HostConfig.Binds[1] must be a string"),
        ({"HostConfig": {"Privileged": "no"}}, "HostConfig.Privileged must be true or false"),
        ({"HostConfig": {"Memory": True}}, "HostConfig.Memory must be a whole number"),
        ({"HostConfig": 5}, "HostConfig must be an object"),
        ({"Labels": {"a": 5}}, "Labels.a must be a string"),
    ],
)
def test_the_words(request_body: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_types(request_body, request_types.CONTAINER)
    assert caught.value.message == words


def test_null_and_what_is_not_known_pass() -> None:
    check_types(
        {"Env": None, "Cmd": "sh", "Entrypoint": ["sh"], "HostConfig": {"Annotations": 5}}, request_types.CONTAINER
    )
