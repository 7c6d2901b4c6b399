"""Paths below a directory, numbered in the order in which they are first seen, and opened without leaving it.

The list is kept in a memory file that outlives this process, so that the next server knows the numbers the kernel has.
Knows no node ids and no requests."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_LENGTH = struct.Struct("<I")
_SESSION = struct.Struct("<Q")
_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08  # include/uapi/linux/openat2.h
_RESOLVE = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
_libc = ctypes.PyDLL(None, use_errno=True)


class NumberedPaths:
    """`root` is a descriptor of the directory, whose own path is empty and whose number is 0. `session` names the life
    of the list. `journal_fd`: the memory file, empty at first.

    Raises OSError where the directory cannot be opened."""

    def __init__(self, directory: str, journal_fd: int) -> None:
        self.root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.session = 0
        self._journal = journal_fd
        self._paths: list[bytes] = [b""]
        self._numbers: dict[bytes, int] = {b"": 0}
        self._read_journal()

    def _read_journal(self) -> None:
        """The session and the paths of a server before us; a record that was cut off is dropped."""
        data = os.pread(self._journal, os.fstat(self._journal).st_size, 0)
        if len(data) < _SESSION.size:
            data = os.urandom(_SESSION.size)
            os.pwrite(self._journal, data, 0)
        (self.session,) = _SESSION.unpack_from(data)
        position = _SESSION.size
        while position + _LENGTH.size <= len(data):
            (length,) = _LENGTH.unpack_from(data, position)
            end = position + _LENGTH.size + length
            if end > len(data):
                break
            path = data[position + _LENGTH.size : end]
            self._numbers[path] = len(self._paths)
            self._paths.append(path)
            position = end
        os.ftruncate(self._journal, position)
        os.lseek(self._journal, position, os.SEEK_SET)

    def known(self, path: bytes) -> int | None:
        return self._numbers.get(path)

    def number(self, path: bytes) -> int:
        number = self._numbers.get(path)
        if number is None:
            os.write(self._journal, _LENGTH.pack(len(path)) + path)  # before the kernel hears of it
            number = self._numbers[path] = len(self._paths)
            self._paths.append(path)
        return number

    def path(self, number: int) -> bytes:
        """Raises OSError (ESTALE) for one that was not given out."""
        if not 0 <= number < len(self._paths):
            raise OSError(errno.ESTALE, "unknown node")
        return self._paths[number]

    def open(self, path: bytes, flags: int) -> int:
        """No link is followed, nothing outside of the directory is reached. Raises OSError."""
        how = struct.pack("=QQQ", flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE)
        fd = int(_libc.syscall(_OPENAT2, self.root, path or b".", how, len(how)))
        if fd < 0:
            raise OSError(ctypes.get_errno(), "openat2")
        return fd
