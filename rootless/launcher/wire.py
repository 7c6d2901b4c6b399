"""Messages <-> datagrams. Used by both ends; blocking or not is the socket's business.

A datagram is one JSON object; descriptors travel beside it. What is larger than INLINE_BYTES goes into a memfd."""

from __future__ import annotations

import array
import dataclasses
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from rootless.launcher import messages
from rootless.runtime import spec

MAX_DESCRIPTORS = 16
MAX_MESSAGE_BYTES = 64 << 20  # in a memfd; an environment cannot be larger than a few megabytes


class BadMessage(ValueError):
    """Not one of our messages."""


def encode(message: object, **more: object) -> bytes:
    """A message of `messages` as JSON; `more` adds fields (a request's id)."""
    assert dataclasses.is_dataclass(message)
    assert not isinstance(message, type)
    return json.dumps({"type": type(message).__name__, **more, **dataclasses.asdict(message)}).encode()


def send(sock: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one datagram. Raises OSError."""
    if len(data) <= messages.INLINE_BYTES:
        _sendmsg(sock, data, descriptors)
        return
    memfd = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(memfd, view) :]
        _sendmsg(sock, b'{"type": "Memfd"}', [memfd, *descriptors])
    finally:
        os.close(memfd)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next datagram and its descriptors (the caller's to close); None at the end. Raises BadMessage, OSError."""
    size = array.array("i").itemsize
    data, ancillary, flags, _ = sock.recvmsg(
        messages.INLINE_BYTES + 4096, socket.CMSG_SPACE(MAX_DESCRIPTORS * size), socket.MSG_CMSG_CLOEXEC
    )
    descriptors: list[int] = []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(payload[: len(payload) - len(payload) % size])
            descriptors.extend(numbers)
    try:
        if not data:
            close_all(descriptors)
            return None
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise BadMessage("truncated message")
        value = json.loads(data)
        if isinstance(value, dict) and value.get("type") == "Memfd" and descriptors:
            value = json.loads(_read_all(descriptors[0]))
            os.close(descriptors.pop(0))
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise BadMessage("not a message")
    except (BadMessage, ValueError, RecursionError) as error:
        close_all(descriptors)
        raise BadMessage(str(error)) from error
    return value, descriptors


def request(value: Mapping[str, Any]) -> messages.Request:
    """The request in a received object. Raises BadMessage."""
    kind = _REQUESTS.get(str(value.get("type")))
    if kind is None:
        raise BadMessage(f"unknown request {value.get('type')!r}")
    fields = {name: item for name, item in value.items() if name not in ("type", "id")}
    try:
        if kind is messages.StartContainer:
            return messages.StartContainer(container_spec(fields["spec"]))
        if kind is messages.WorkOnFiles:
            spec_value, layers = container_spec(fields["spec"]), tuple(fields.get("layers", ()))
            return messages.WorkOnFiles(**{**fields, "spec": spec_value, "layers": layers})
        if kind is messages.StartExec:
            return messages.StartExec(**{**fields, "process": process_spec(fields["process"])})
        if kind is messages.MountImage:
            for name in ("layers", "exclude"):
                fields[name] = tuple(fields.get(name, ()))
        if kind is messages.ConnectNetwork:
            fields["network"] = guest_network(fields["network"])
        made: messages.Request = kind(**fields)
        return made
    except (KeyError, TypeError) as error:
        raise BadMessage(f"{kind.__name__}: {error}") from error


def container_spec(value: Mapping[str, Any]) -> spec.ContainerSpec:
    """A ContainerSpec from JSON. Raises KeyError, TypeError."""
    return spec.ContainerSpec(
        **{
            **value,
            "root": root_spec(value["root"]),
            "process": process_spec(value["process"]),
            "mounts": tuple(
                spec.MountSpec(**{**mount, "options": tuple(mount.get("options", ()))})
                for mount in value.get("mounts", ())
            ),
            "guest_networks": tuple(guest_network(network) for network in value.get("guest_networks", ())),
            "masked_paths": tuple(value.get("masked_paths", ())),
            "readonly_paths": tuple(value.get("readonly_paths", ())),
            "sysctls": tuple((name, text) for name, text in value.get("sysctls", ())),
        }
    )


def guest_network(value: Mapping[str, Any]) -> spec.GuestNetwork:
    """Raises TypeError."""
    private = {name: tuple(addresses) for name, addresses in value.get("private_names", {}).items()}
    lists = {name: tuple(value.get(name, ())) for name in ("names", "resolvers")}
    return spec.GuestNetwork(**{**value, **lists, "private_names": private})


def root_spec(value: Mapping[str, Any]) -> spec.RootSpec:
    """A RootSpec from JSON. Raises TypeError."""
    union = value.get("union")
    if union is not None:
        union = spec.UnionSpec(**{**union, **{name: tuple(union.get(name, ())) for name in ("layers", "exclude")}})
    return spec.RootSpec(**{**value, "union": union})


def process_spec(value: Mapping[str, Any]) -> spec.ProcessSpec:
    """A ProcessSpec from JSON. Raises TypeError."""
    lists = ("args", "environment", "additional_groups", "terminal_size", "capabilities")
    return spec.ProcessSpec(**{**value, **{name: tuple(value[name]) for name in lists if name in value}})


def close_all(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _sendmsg(sock: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if size > MAX_MESSAGE_BYTES:
        raise BadMessage(f"message of {size} bytes")
    parts: list[bytes] = []
    at = 0
    while at < size and (part := os.pread(fd, size - at, at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


_REQUESTS: dict[str, Any] = {kind.__name__: kind for kind in messages.Request.__args__}
