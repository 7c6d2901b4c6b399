"""A kernel that lies: whatever comes as a request is answered with an errno, and the server goes on."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse_overlay import DirectoryLayer, UnionOptions, serve_union, union_files, union_server
from fuse_overlay.wire import structs as w
from tests.fuse_overlay.mounting import start_server

OPCODES = st.sampled_from([*range(1, 54), 0, 4096, 0xFFFFFFFF])
NODES = st.sampled_from([0, 1, 2, 3, 1 << 33, 5 << 33 | 7, 1 << 63, (1 << 64) - 1])
WORDS = st.lists(st.sampled_from([0, 1, 2, 7, 0o100644, 0x40086602, 1 << 20, 0xFFFFFFFF]), max_size=24)
NAMES = st.sampled_from(
    [b"", b"\0", b"a\0", b"a\0b\0", b"..\0", b".\0..\0", b"a/b\0", b"x" * 300 + b"\0", b"d\0", b"\xff\0a\0"]
)
QUIET = {w.FORGET, w.BATCH_FORGET, w.INTERRUPT}


def test_lies_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (union_files, union_server):
        monkeypatch.setattr(module, "MAX_READ", 1 << 16)  # a socket takes no message of 1 MiB
    for name in ("lower/d", "upper", "work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lower" / "a").write_text("content")
    (tmp_path / "outside").write_text("untouched")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20)

    def serve(fd: int, _resume: bool) -> None:
        layers = [DirectoryLayer(str(tmp_path / "lower"))]
        serve_union(fd, layers, str(tmp_path / "upper"), str(tmp_path / "work"), UnionOptions())

    server = start_server(theirs.fileno(), serve)
    theirs.close()  # a server that dies is noticed at once
    unique = 0

    def ask(opcode: int, node: int, body: bytes, again: int = 0) -> int:
        """The errno of the answer. `again`: the bit of a request that a dead server had before us."""
        nonlocal unique
        unique = unique + 1 & ~w.UNIQUE_RESEND | again
        length = w.IN_HEADER.size + len(body)
        ours.send(w.IN_HEADER.pack(length, opcode, unique, node, 0, 0, os.getpid(), 0, 0) + body)
        if opcode in QUIET:
            return 0
        while True:  # answers of an example that failed may still be there
            _, number, answered = w.OUT_HEADER.unpack_from(ours.recv(2 << 20))
            if answered == unique:
                return -int(number)

    @settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
    @given(opcode=OPCODES, node=NODES, words=WORDS, names=NAMES, cut=st.integers(0, 40))
    def lie(opcode: int, node: int, words: list[int], names: bytes, cut: int) -> None:
        body = struct.pack(f"<{len(words)}I", *words) + names
        assert 0 <= ask(opcode, node, body[: len(body) - cut if cut < len(body) else None]) < 1000

    def chmod_root(mode: int) -> int:
        return ask(w.SETATTR, 1, w.SETATTR_IN.pack(w.FATTR_MODE, *[0] * 10, mode, 0, 0, 0, 0))

    try:
        lie()
        # a lie may have taken away all rights on the root: then the upper is closed, even to us, until they come back
        assert chmod_root(0) == 0
        assert ask(w.LOOKUP, 1, b"gone\0") in (0, errno.EACCES)  # 0: its listing is known
        assert chmod_root(0o755) == 0
        ours.send(b"too short")
        ours.send(w.IN_HEADER.pack(4096, w.GETATTR, 1, 1, 0, 0, 0, 0, 0))  # a length that lies
        assert ask(w.GETATTR, 1, bytes(16)) == 0
        flags = w.IOCTL_IN.pack(0, 0, 0x80086601, 0, 0, 0xFFFFFFFF)  # FS_IOC_GETFLAGS into more than there is memory
        assert ask(w.IOCTL, 1, flags) == errno.EINVAL
        for opcode, body in (
            (w.UNLINK, b"gone\0"),
            (w.RMDIR, b"gone\0"),
            (w.RENAME, struct.pack("<Q", 1) + b"gone\0new\0"),
        ):
            assert ask(opcode, 1, body) == errno.ENOENT
            assert ask(opcode, 1, body, w.UNIQUE_RESEND) == 0
        made = struct.pack("<II", 0o755, 0) + b"made\0"
        assert [ask(w.MKDIR, 1, made), ask(w.MKDIR, 1, made, w.UNIQUE_RESEND)] == [0, 0]
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    assert (tmp_path / "outside").read_text() == "untouched"
    assert sorted(os.listdir(tmp_path)) == ["lower", "outside", "upper", "work"]
    assert (tmp_path / "lower" / "a").read_text() == "content"
