"""Work on a container's files, in a child of the launcher that ends with it: root in U, so it may read what belongs to
subordinate ids.

What the container wrote (changes, layer) and all it sees of its own (export) come straight from its upper directory and
its image's layers. Copying (stat, read, write) sees what its processes see, volumes included: a running container's
files through its own mount namespace, a stopped one's through the same mounts, made here. The container may be hostile:
paths are resolved inside of its root, never through /proc's magic links, and nothing is opened that might have become a
link meanwhile.

The result pipe gets one JSON object: {"ok": …} or {"error": text, "kind": …} with a kind of `unpacking.KINDS`."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import resource
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter
from pathlib import Path
from typing import Any

import fuse_overlay
from rootless.launcher import messages
from rootless.launcher.child import ChildContext
from rootless.launcher.freezing import frozen
from rootless.runtime import perform
from rootless.runtime.plan import files_plan
from rootless.syscalls import numbers as n
from rootless.unpacking import FilesError, Root

# made for every container that lacks them: no change of its own
MOUNT_POINTS = frozenset({b"dev", b"etc", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf", b"proc", b"sys"})
MAX_DEPTH = 2000


def work(request: messages.WorkOnFiles, pidfd: int, data: int, result: int, context: ChildContext) -> None:
    """Do it and report. `pidfd` is the container's first process, -1 where it does not run."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    answer: dict[str, Any]
    try:
        answer = {"ok": _work(request, pidfd, data, context)}
    except FilesError as error:
        answer = {"error": str(error), "kind": error.kind}
    except BrokenPipeError:
        return  # nobody wants it any more
    except fuse_overlay.LayerError as error:
        answer = {"error": f"the image is damaged: {error}", "kind": "failed"}
    except perform.StepFailed as error:
        answer = {"error": f"{error.step}: {error.message}", "kind": "failed"}
    except OSError as error:
        answer = {"error": f"{error.strerror} ({_shown(error.filename)})", "kind": "failed"}
        if error.errno == errno.EROFS:
            answer = {"error": "container rootfs is marked read-only", "kind": "read-only"}
    view = memoryview(json.dumps(answer).encode())
    while view:
        view = view[os.write(result, view) :]


def _work(request: messages.WorkOnFiles, pidfd: int, data: int, context: ChildContext) -> Any:
    root = request.spec.root
    if request.action in ("size", "changes", "layer", "export"):
        with frozen(pidfd) if request.freeze and pidfd >= 0 else contextlib.nullcontext():
            if pidfd >= 0 and root.lower:
                _write_out(root.lower, context)
            return _of_upper(request, data)
    from rootless.launcher import copying  # before the root is the container's

    root_fd = _enter(request, pidfd, context)
    container = Root(context.syscalls, root_fd)
    if request.action == "stat":
        return copying.stat_path(container, request.path)
    if request.action == "read":
        copying.read_path(container, request.path, data)
        return {}
    if request.action == "write":
        if pidfd < 0 and root.read_only and container.is_root_file_system(request.path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        copying.write_path(container, request.path, data, replace=request.replace)
        return {}
    raise FilesError("invalid", f"unknown action {request.action}")


def _of_upper(request: messages.WorkOnFiles, data: int) -> Any:
    upper = Path(request.spec.root.upper)
    if request.action == "size":
        return _bytes_below(str(upper))
    tree = fuse_overlay.open_tree(Path(request.tree), [Path(layer) for layer in request.layers])
    if request.action == "changes":
        found = fuse_overlay.upper_changes(upper, tree, MOUNT_POINTS)
        return [[kind, os.fsdecode(path)] for kind, path in found]
    write = fuse_overlay.write_upper if request.action == "layer" else fuse_overlay.write_merged
    write(upper, tree, data, MOUNT_POINTS)
    return {}


def _write_out(path: str, context: ChildContext) -> None:
    """What was written to files that are still open goes to the upper. syncfs(2) of a FUSE file system begins that and
    does not wait (kernel 6.16); the server answers in order, so that what is asked next has it to wait for."""
    context.syscalls.syncfs(path)
    os.statvfs(path)


def _bytes_below(directory: str) -> int:
    """Of all files; links are not followed, and what goes meanwhile does not count."""
    total = 0
    for _, _, names, fd in os.fwalk(directory, follow_symlinks=False):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(name, dir_fd=fd, follow_symlinks=False).st_size
    return total


def _enter(request: messages.WorkOnFiles, pidfd: int, context: ChildContext) -> int:
    """A descriptor of the root the container sees."""
    context.syscalls.prctl(n.PR_SET_DUMPABLE, 0)  # nobody in the container may look at this process
    if pidfd >= 0:
        _import_nothing_more()
        context.syscalls.setns(pidfd, n.CLONE_NEWUSER | n.CLONE_NEWNS)
        return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    context.syscalls.unshare(n.CLONE_NEWNS)
    context.syscalls.mount("", "/", "", n.MS_PRIVATE | n.MS_REC)
    performer = perform.Performer(context.syscalls, context.root_mount, lambda _: None, lambda: None, lambda _: None)
    performer.perform(files_plan(request.spec))
    return performer.root_fd


def _import_nothing_more() -> None:
    """What is imported from now on would come from the container's file system. What tarfile imports when it finds
    something packed is imported here."""
    for name in ("zlib", "bz2", "lzma", "traceback", "encodings.latin_1", "encodings.ascii"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.path.clear()
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter]


def clean(path: str) -> str:
    """As docker reads a path: absolute, `..` taken away, what ends it (`/`, `/.`) kept."""
    made = os.path.normpath("/" + path)
    made = "/" + made.lstrip("/")
    if path.endswith("/.") or path == ".":
        return made.rstrip("/") + "/."
    return made + "/" if path.endswith("/") and made != "/" else made


def _shown(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, str | bytes) else str(name)
