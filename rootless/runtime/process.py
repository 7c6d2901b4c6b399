"""The last steps of a process inside the container: who it is, what it may, where it is, what it executes.

Shared by a container's first process and by exec. Called by `launcher.child` after the pivot or after setns."""

from __future__ import annotations

import errno
import os
import signal
import stat

from rootless.runtime import accounts, capabilities
from rootless.runtime.perform import StepFailed
from rootless.runtime.spec import DEFAULT_PATH, ProcessSpec
from rootless.syscalls import Syscalls
from rootless.syscalls import numbers as n

_MAX_ACCOUNT_FILE = 4 << 20  # bytes of /etc/passwd and /etc/group of an image that are read


class ExecFailed(StepFailed):
    """The command cannot be executed; `exit_code` is 126 or 127."""

    def __init__(self, number: int, message: str, exit_code: int) -> None:
        super().__init__("exec", number, message)
        self.exit_code = exit_code


def account(process: ProcessSpec) -> accounts.Account:
    """Look the process' owner up in the container's files. Raises StepFailed."""
    try:
        passwd, group = _read("/etc/passwd"), _read("/etc/group")
        return accounts.resolve(process.user, process.additional_groups, passwd, group)
    except accounts.UnknownUser as error:
        raise StepFailed("user", errno.ENOENT, str(error)) from error


def become(who: accounts.Account, process: ProcessSpec, syscalls: Syscalls, *, last_capability: int) -> None:
    """Drop what is not wanted: bounding set first (it needs SETPCAP), groups, ids, the rest, no_new_privs.

    Raises StepFailed."""
    wanted = capabilities.mask(process.capabilities)
    try:
        for number in range(last_capability + 1):
            if not wanted >> number & 1:
                syscalls.prctl(n.PR_CAPBSET_DROP, number)
        syscalls.prctl(n.PR_SET_KEEPCAPS, 1)
        _set_ids(who)
        effective = wanted if who.uid == 0 else 0
        syscalls.capset(effective, effective, 0)
        syscalls.prctl(n.PR_SET_KEEPCAPS, 0)
        if process.no_new_privileges:
            syscalls.prctl(n.PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise StepFailed("user", error.errno or 0, f"cannot become {who.uid}:{who.gid}: {error.strerror}") from error


def _set_ids(who: accounts.Account) -> None:
    try:
        os.setgroups(who.groups if who.uid or who.gid or len(who.groups) > 1 else [0])
    except PermissionError:
        # single-id mode: the kernel wants setgroups denied there; harmless unless other groups were asked for
        if set(who.groups) - {who.gid}:
            raise
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (no such group id in this user namespace)") from error
    try:
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
    except OSError as error:
        if error.errno == errno.EINVAL:
            hint = (
                "no such id in this user namespace: with no subordinate ids only root (0) exists, see `rootless info`"
            )
            raise OSError(error.errno, hint) from error
        raise


def enter_directory(path: str) -> None:
    """chdir to the working directory, made if missing (as docker does, by root). Raises StepFailed."""
    try:
        try:
            os.chdir(path)
        except FileNotFoundError:
            os.makedirs(path, 0o755, exist_ok=True)
            os.chdir(path)
    except OSError as error:
        message = f'chdir to cwd ("{path}") failed: {(error.strerror or "").lower()}'
        raise StepFailed("working directory", error.errno or 0, message) from error


def environment(process: ProcessSpec, who: accounts.Account) -> dict[bytes, bytes]:
    """What execve gets; HOME from the account unless given."""
    pairs = (os.fsencode(text).partition(b"=") for text in process.environment)
    made = {name: value for name, _, value in pairs if name}
    made.setdefault(b"HOME", os.fsencode(who.home))
    return made


def find(command: str, search_path: str) -> str:
    """Where the command is, in the container. Raises ExecFailed in docker's words."""
    if "/" in command:
        _check_executable(command, command)
        return command
    for directory in search_path.split(":"):
        candidate = f"{directory or '.'}/{command}"
        try:
            _check_executable(command, candidate)
        except ExecFailed:
            continue
        return candidate
    raise ExecFailed(errno.ENOENT, f'exec: "{command}": executable file not found in $PATH', 127)


def execute(path: str, process: ProcessSpec, variables: dict[bytes, bytes]) -> None:
    """execve; returns only by raising ExecFailed."""
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                continue  # the two that the C library keeps
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        os.execve(path, [os.fsencode(word) for word in process.args], variables)
    except OSError as error:
        code = 127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126
        raise ExecFailed(error.errno or 0, f"exec {path}: {(error.strerror or '').lower()}", code) from error


def command(process: ProcessSpec, variables: dict[bytes, bytes]) -> str:
    """Path of the program to execute. Raises ExecFailed."""
    if not process.args or not process.args[0]:
        raise ExecFailed(errno.ENOENT, "no command specified", 125)
    search_path = variables.get(b"PATH", DEFAULT_PATH.encode()).decode("utf-8", "surrogateescape")
    return find(process.args[0], search_path)


def _check_executable(shown: str, path: str) -> None:
    try:
        status = os.stat(path)
    except PermissionError as error:
        raise ExecFailed(errno.EACCES, f'exec: "{shown}": permission denied', 126) from error
    except OSError as error:
        text = (error.strerror or "").lower()
        raise ExecFailed(error.errno or 0, f'exec: "{shown}": stat {path}: {text}', 127) from error
    if stat.S_ISDIR(status.st_mode):
        raise ExecFailed(errno.EISDIR, f'exec: "{shown}": is a directory', 126)
    if not status.st_mode & 0o111:
        raise ExecFailed(errno.EACCES, f'exec: "{shown}": permission denied', 126)


def _read(path: str) -> str:
    """A small file of the image, or nothing: it may be missing, a pipe, a device, or huge."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        parts: list[bytes] = []
        left = _MAX_ACCOUNT_FILE
        while left > 0 and (got := os.read(fd, min(left, 1 << 16))):
            parts.append(got)
            left -= len(got)
        return b"".join(parts).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)
