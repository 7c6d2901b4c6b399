"""`rootless-fuse-overlay -o lowerdir=…[,upperdir=…,workdir=…] MOUNTPOINT`: a union file system, as fuse-overlayfs is
called: by hand, by mount(8) as `mount -t fuse.rootless-fuse-overlay`, by podman as its mount_program.

Lower layers are directories, directories with layer.tar and index, and tar archives. In a user namespace it mounts by
itself, outside of one through fusermount3."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

from fuse_overlay.device import Device
from fuse_overlay.errors import LayerError
from fuse_overlay.image_server import serve_tree_on
from fuse_overlay.layers.store import Tree
from fuse_overlay.mount import mount_fuse
from fuse_overlay.options import MountOptions, parse
from fuse_overlay.presented import Presentation, PresentingDevice
from fuse_overlay.stack import open_stack
from fuse_overlay.union_server import LIVE_SECONDS, DirectoryLayer, UnionOptions, UnionServer, open_lowers
from fuse_overlay.upper import Upper

NAME = "rootless-fuse-overlay"
EVERY_ID = 1 << 32
_CAP_SYS_ADMIN = 21  # include/uapi/linux/capability.h
_CLONE_NEWUSER = 0x10000000  # include/uapi/linux/sched.h
_libc = ctypes.PyDLL(None, use_errno=True)
Stack = Sequence[Tree | DirectoryLayer]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 mounted (and served in the background), 1 not mounted, 2 wrong usage."""
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    foreground = arguments.foreground or arguments.debug
    with contextlib.ExitStack() as undo:
        try:
            options = parse(",".join(arguments.options))
            target = os.path.abspath(arguments.mountpoint)
            if not os.path.isdir(target):
                raise OSError(errno.ENOTDIR, "the mount point is no directory", target)
            stack = open_stack(options.lower, options.tree)
            if not options.upper and not (len(stack) == 1 and isinstance(stack[0], Tree)):
                options = undo.enter_context(_without_upper(options))
            serve = _server(stack, options)
            presented = Presentation(*options.squash, options.static_nlink)
            device = (
                PresentingDevice(_mount(options, target), presented) if presented else Device(_mount(options, target))
            )
        except (LayerError, OSError, ValueError) as error:
            sys.stderr.write(f"{NAME}: {_words(error)}\n")
            return 1
        if not foreground:
            if os.fork():
                undo.pop_all()
                os._exit(0)
            _detach()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        serve(device)
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=NAME, description="Mount a union of directories and image layers.")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPTIONS")
    parser.add_argument("-f", dest="foreground", action="store_true", help="stay in the foreground")
    parser.add_argument("-d", "--debug", action="store_true", help="stay in the foreground")
    parser.add_argument("-s", action="store_true", help=argparse.SUPPRESS)  # one thread: it is one
    parser.add_argument("-V", "--version", action=_Version, nargs=0, help="print the version")
    parser.add_argument(
        "words", nargs="+", metavar="[SOURCE] MOUNTPOINT", help="mount(8) gives a source: it is ignored"
    )
    found = parser.parse_intermixed_args(list(argv))
    if len(found.words) > 2:
        parser.error(f"one mount point, not {len(found.words) - 1}: {' '.join(found.words)}")
    found.mountpoint = found.words[-1]
    return found


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata  # slow to import

        try:
            parser.exit(message=f"{NAME}: version {metadata.version('rootless')}\n")
        except metadata.PackageNotFoundError:
            parser.exit(message=f"{NAME}: version unknown\n")


@contextlib.contextmanager
def _without_upper(options: MountOptions) -> Iterator[MountOptions]:
    """A read-only union of more than one tree: with an upper directory that stays empty."""
    import tempfile  # slow to import

    with tempfile.TemporaryDirectory(prefix="rootless-") as scratch:
        upper, work = f"{scratch}/upper", f"{scratch}/work"
        os.mkdir(upper)
        os.mkdir(work)
        yield MountOptions(**{**vars(options), "upper": upper, "work": work, "read_only": True})


def _mount(options: MountOptions, target: str) -> int:
    """Raises OSError."""
    if _may_mount():
        return mount_fuse(target, options.fsname, read_only=options.read_only, flags=options.flags)
    from fuse_overlay.libfuse import mount_by_helper

    words = [f"fsname={options.fsname}", f"subtype={NAME}"]
    if options.read_only:
        words.append("ro")  # nobody but the user gets in, and all of it is the user's: no check of modes
    else:
        words.append("default_permissions")
    if options.others:
        words.append("allow_other")
    return mount_by_helper(target, ",".join(words))


def _may_mount() -> bool:
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


def _id_count() -> int:
    """Ids from there on do not exist in this user namespace."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return max((int(first) + int(count) for first, _, count in map(str.split, file)), default=1)


def _server(stack: Stack, options: MountOptions) -> Callable[[Device], None]:
    """All that can fail is done; what is left is to serve a device. Raises OSError."""
    count = EVERY_ID if options.userns or not _may_mount() else _id_count()
    if not options.upper:
        (tree,) = stack
        assert isinstance(tree, Tree)
        return lambda device: serve_tree_on(device, tree, id_count=count, resume=False)
    upper = Upper(os.path.abspath(options.upper), os.path.abspath(options.work), count)
    lowers = open_lowers(stack, upper.device, count)
    for lower in lowers if options.live else ():
        lower.valid_seconds = LIVE_SECONDS
    acl = options.acl and not options.live
    union = UnionOptions(id_count=count, volatile=options.volatile, acl=acl, writeback=options.writeback)
    users = os.open(options.userns, os.O_RDONLY | os.O_CLOEXEC) if options.userns else -1

    def serve(device: Device) -> None:
        if users >= 0 and _libc.setns(users, _CLONE_NEWUSER):
            raise OSError(ctypes.get_errno(), "cannot join the user namespace", options.userns)
        UnionServer(device, lowers, upper, union).serve(resume=False)

    return serve


def _detach() -> None:
    """podman waits until nobody holds its pipes."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.chdir("/")


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)


if __name__ == "__main__":
    sys.exit(main())
