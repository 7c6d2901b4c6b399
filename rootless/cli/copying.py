"""Files between a container and this host, as tar archives over the API (GET and PUT /containers/{id}/archive).

The rules are cp's, as docker has them: a source that ends in `/.` means what is in the directory; a target that is a
directory takes the source under its own name; one that is not there gets the source under the target's name."""

from __future__ import annotations

import base64
import json
import os
import sys
import tarfile
import threading
from collections.abc import Iterator
from typing import IO, Any, cast

from rootless.cli.archives import read_chunks
from rootless.cli.output import STDOUT_FD, write_all
from rootless.client import ApiError, Client
from rootless.client.client import segment
from rootless.model.errors import InvalidParameter, NotFound, RootlessError
from rootless.syscalls import Kernel
from rootless.unpacking import FilesError, Root, Unpacker

PIPE_BYTES = 1 << 18
GO_MODE_DIRECTORY = 1 << 31  # os.ModeDir of Go, in X-Docker-Container-Path-Stat


def split(word: str) -> tuple[str, str]:
    """("web:/etc") -> ("web", "/etc"); ("./a:b") and ("/a:b") are paths of this host."""
    container, colon, path = word.partition(":")
    if not colon or word.startswith((".", "/")):
        return "", word
    return container, path


def from_container(client: Client, container: str, source: str, target: str, follow_link: bool) -> str:
    """Copy out; a sentence about it. Raises ApiError, NotFound, InvalidParameter, OSError."""
    path = f"/containers/{segment(container)}/archive"
    if follow_link and (link := _stat(client, container, source).get("linkTarget")):
        source = os.path.join(os.path.dirname(source.rstrip("/")), link)
    response = client.open("GET", path, {"path": source})
    if target == "-":
        for data in response.chunks():
            write_all(STDOUT_FD, data)
        return ""
    into_directory = os.path.isdir(target)
    parent = os.path.dirname(os.path.abspath(target))
    if not into_directory and not os.path.isdir(parent):
        raise NotFound(f'invalid output path: directory "{parent}" does not exist')
    if not into_directory and target.endswith("/"):
        raise NotFound(f'invalid output path: directory "{target}" does not exist')
    only_contents = os.path.basename(source) == "." or source.endswith("/.")
    with tarfile.open(fileobj=cast(IO[bytes], _ChunkFile(response.chunks())), mode="r|") as archive:
        _extract(archive, target, into_directory, only_contents)
    return f"Successfully copied from {container}:{source} to {os.path.abspath(target)}"


def to_container(client: Client, source: str, container: str, target: str, follow_link: bool, keep_owner: bool) -> str:
    """Copy in; a sentence about it. Raises ApiError, NotFound, InvalidParameter, OSError."""
    path = f"/containers/{segment(container)}/archive"
    query: dict[str, object] = {"path": target, "noOverwriteDirNonDir": True, "copyUIDGID": keep_owner}
    headers = {"Content-Type": "application/x-tar"}
    if source == "-":
        client.call("PUT", path, query, body=read_chunks(None), headers=headers)
        return ""
    os.stat(source) if follow_link else os.lstat(source)  # says which file is missing before anything is sent
    only_contents = source.endswith("/.") or source == "."
    name = os.path.basename(os.path.abspath(source))
    try:
        is_directory = bool(_stat(client, container, target).get("mode", 0) & GO_MODE_DIRECTORY)
    except ApiError as error:
        if error.status != 404 or "no such container" in error.message.lower():
            raise
        is_directory = False
        if target.endswith("/") and not os.path.isdir(source):
            raise
        name = os.path.basename(target.rstrip("/"))
        query["path"] = os.path.dirname(target.rstrip("/")) or "/"
    else:
        if not is_directory:
            if os.path.isdir(source):
                raise InvalidParameter(f"cannot copy directory to {container}:{target}: it is not a directory")
            name, query["path"] = os.path.basename(target), os.path.dirname(target) or "/"
    if only_contents and is_directory:
        name = "."
    local = os.path.realpath(source) if follow_link else source.rstrip("/") or "/"
    client.call("PUT", path, query, body=_packed(local, name, keep_owner), headers=headers)
    return f"Successfully copied to {container}:{target}"


def _packed(local: str, name: str, keep_owner: bool) -> Iterator[bytes]:
    """A tar of a file or directory, packed while it is sent. Raises OSError."""
    reading, writing = os.pipe()
    failures: list[Exception] = []

    def member(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = int(info.mtime)  # else each takes a PAX header
        info.uname = info.gname = ""
        if not keep_owner:  # this host's ids mean nothing in the container
            info.uid = info.gid = 0
        return info

    def pack() -> None:
        try:
            with (
                os.fdopen(writing, "wb", PIPE_BYTES) as pipe,
                tarfile.open(fileobj=pipe, mode="w|", bufsize=PIPE_BYTES, dereference=False) as archive,
            ):
                archive.add(local, name, filter=member)
        except BrokenPipeError:
            return  # the engine has refused
        except Exception as error:
            failures.append(error)

    packing = threading.Thread(target=pack, daemon=True)
    packing.start()
    try:
        while data := os.read(reading, PIPE_BYTES):
            yield data
    finally:
        os.close(reading)
        packing.join()
    if failures:
        raise failures[0]


def _stat(client: Client, container: str, path: str) -> dict[str, Any]:
    """HEAD's X-Docker-Container-Path-Stat. Raises ApiError."""
    response = client.open("HEAD", f"/containers/{segment(container)}/archive", {"path": path})
    try:
        text = base64.b64decode(response.headers["x-docker-container-path-stat"])
        return cast(dict[str, Any], json.loads(text))
    except (KeyError, ValueError) as error:
        raise RootlessError(f"the engine says nothing about {container}:{path}") from error


def _extract(archive: tarfile.TarFile, target: str, into_directory: bool, only_contents: bool) -> None:
    """Members come under the source's name; they go under the target's, or into it.

    The container may be hostile: nothing gets out of the target, whatever links the archive makes in it. What is copied
    is ours, and no program gets set-UID bits. Raises InvalidParameter, OSError."""
    where = target if into_directory else os.path.dirname(os.path.abspath(target))
    renamed = "" if into_directory else os.path.basename(os.path.abspath(target))
    root = Root(Kernel(), os.open(where, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    umask = os.umask(0)
    try:
        unpacker = Unpacker(root, "", replace=False)
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            member.name = _placed(member.name, renamed, into_directory and only_contents)
            if member.ischr() or member.isblk():
                sys.stderr.write(f"rootless: {member.name}: a device cannot be made here\n")
                continue
            if member.islnk():
                member.linkname = _placed(member.linkname, renamed, into_directory and only_contents)
            member.mode &= 0o777
            member.uid, member.gid = os.getuid(), os.getgid()
            member.pax_headers = {}
            unpacker.member(archive, member)
        unpacker.finish()
    except FilesError as error:
        raise InvalidParameter(str(error)) from error
    finally:
        os.umask(umask)
        os.close(root.fd)


def _placed(name: str, renamed: str, only_contents: bool) -> str:
    first, _, rest = name.strip("/").partition("/")
    return rest or "." if only_contents else f"{renamed or first}/{rest}".rstrip("/")


class _ChunkFile:
    """What tarfile needs of a file, over chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts, missing = [self._rest], size - len(self._rest)
        while missing > 0:
            data = next(self._chunks, b"")
            if not data:
                break
            parts.append(data)
            missing -= len(data)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]
