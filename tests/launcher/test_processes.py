"""The order in which a short-lived process is heard of is the kernel's to choose."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import pytest

from rootless.launcher.idmap import IdMap
from rootless.launcher.processes import Process, Processes, _Start


@pytest.mark.parametrize("reaped_first", [True, False])
def test_an_exec_that_ends_before_its_pid_is_read(reaped_first: bool) -> None:
    exits: list[Process] = []
    answers: list[dict[str, object]] = []
    nothing: Any = None
    processes = Processes(nothing, IdMap((), ()), exits.append, exits.append, nothing, nothing)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = Process("e", "exec", "c", 0, -1)
    processes.by_id["e"] = process
    channel = processes._watch(_Start(process, ours, lambda result, fds: answers.append(result), nothing, helper_pid=1))
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    if reaped_first:
        assert not processes.reaped(*os.waitpid(pid, 0))  # nobody's, as far as is known
    theirs.send(json.dumps({"type": "pid", "pid": pid}).encode())
    assert processes.readable(channel)
    theirs.close()
    assert not processes.readable(channel)
    if not reaped_first:
        assert processes.reaped(*os.waitpid(pid, 0))
    assert answers[0]["pid"] == pid
    assert [(ended.process_id, ended.status) for ended in exits] == [("e", 7)]
