"""What a container finds in its environment about those it is linked to on the default network (--link). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_NOT_TOLD = ("HOME", "PATH")


def link_environment(
    name: str, alias: str, address: str, exposed: Iterable[str], environment: Iterable[str]
) -> tuple[str, ...]:
    """`name` is who looks, without a slash; `address`, `exposed` ("5432/tcp") and `environment` ("NAME=value") are
    those of the container that is seen as `alias`."""
    prefix = alias.upper().replace("-", "_")
    ports = sorted({(protocol, int(port)) for port, _, protocol in (text.partition("/") for text in exposed)})
    found = []
    if ports:
        # docker's main port: the lowest of TCP, else of UDP
        protocol, port = ports[0]
        found.append(f"{prefix}_PORT={protocol}://{address}:{port}")
    for protocol, numbers in _runs(ports):
        if len(numbers) > 1:
            first, last = numbers[0], numbers[-1]
            words = f"{prefix}_PORT_{first}_{protocol.upper()}"
            found += [
                f"{words}_START={protocol}://{address}:{first}",
                f"{words}_ADDR={address}",
                f"{words}_PROTO={protocol}",
                f"{words}_PORT_START={first}",
                f"{words}_PORT_END={last}",
            ]
    for protocol, port in ports:
        words = f"{prefix}_PORT_{port}_{protocol.upper()}"
        found += [
            f"{words}={protocol}://{address}:{port}",
            f"{words}_ADDR={address}",
            f"{words}_PORT={port}",
            f"{words}_PROTO={protocol}",
        ]
    found.append(f"{prefix}_NAME=/{name}/{alias}")
    for text in environment:
        variable, equals, value = text.partition("=")
        if equals and variable not in _NOT_TOLD:
            found.append(f"{prefix}_ENV_{variable}={value}")
    return tuple(dict.fromkeys(found))


def _runs(ports: Sequence[tuple[str, int]]) -> list[tuple[str, list[int]]]:
    """Ports one after another, of one protocol."""
    runs: list[tuple[str, list[int]]] = []
    for protocol, port in ports:
        if runs and runs[-1][0] == protocol and runs[-1][1][-1] == port - 1:
            runs[-1][1].append(port)
        else:
            runs.append((protocol, [port]))
    return runs
