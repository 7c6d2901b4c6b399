"""Keeps a server on the CPU of whoever asks it.

A request is two wake-ups. On the CPU where the client has just gone to sleep they cost a context switch each; on
another one, an interrupt and, on a virtual machine, an exit to the hypervisor: a whole request is 25 µs in the one
case, 80 µs in the other. As long as requests come from one task at a time we go where that task is; when several take
turns (a parallel build), the scheduler decides."""

from __future__ import annotations

import os

PERIOD = 64  # requests between two looks
TURNS = 24  # so many changes of the asking task within a period: several at once


class CpuFollower:
    """`seen(pid)` for every request. `useful` is False where there is one CPU or no /proc."""

    def __init__(self) -> None:
        self._all = os.sched_getaffinity(0)
        self._pid = 0
        self._turns = 0
        self._left = PERIOD
        self._free = True  # not bound to a CPU
        self._shared = False  # several clients
        self._cpu = -1
        self.useful = len(self._all) > 1 and os.path.exists("/proc/self/stat")

    def seen(self, pid: int) -> None:
        self._left -= 1
        if pid != self._pid and pid:
            self._pid = pid
            self._turns += 1
            if not self._shared:
                self._go(pid)
        if self._left <= 0:
            self._left = PERIOD
            self._shared = self._turns > TURNS
            self._turns = 0
            if self._shared:
                self._release()
            else:
                self._go(self._pid)

    def _go(self, pid: int) -> None:
        try:
            fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
            try:
                stat = os.read(fd, 1024)
            finally:
                os.close(fd)
            cpu = int(stat[stat.rindex(b")") :].split()[37])  # proc(5): field 39, processor
            if cpu != self._cpu and cpu in self._all:
                os.sched_setaffinity(0, (cpu,))
                self._cpu, self._free = cpu, False
        except (OSError, ValueError, IndexError):
            self._release()

    def _release(self) -> None:
        if not self._free:
            os.sched_setaffinity(0, self._all)
            self._cpu, self._free = -1, True
