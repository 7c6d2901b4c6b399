"""The writable union and kernel overlayfs, over the same layers, doing the same: results, errors and what is there
must be alike after every step. Now and then each goes on with the other's upper directory.

ROOTLESS_LOCKSTEP_EXAMPLES (default 25) is how many runs are made."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fuse_overlay import DirectoryLayer, Tree, UnionOptions, merge_tree, mount_fuse, open_tree, serve_union
from tests.fuse_overlay.lockstep_layers import fill, join, packed
from tests.fuse_overlay.mounting import MNT_DETACH, enter_namespaces, in_child, libc, start_server
from tests.fuse_overlay.test_layers import write_layer

pytestmark = pytest.mark.kernel
NAMES = ["f0", "f1", "d0", "d0/f0", "d0/f1", "d0/d0", "d0/d0/f0", "d1", "d1/f0", "d1/d0", "link", "d0/link"]
PATHS = st.sampled_from(NAMES)
DATA = st.sampled_from([b"", b"x", b"hello", b"y" * 5000])
EXAMPLES = int(os.environ.get("ROOTLESS_LOCKSTEP_EXAMPLES", "25"))
_RENAMEAT2 = 316 if os.uname().machine == "x86_64" else 276


class Side:
    """One of the two unions, mounted."""

    def __init__(self, home: Path, name: str, lowers: list[Path], tree: Tree) -> None:
        self.home, self.lowers, self.tree = home, lowers, tree
        self.upper, self.work, self.target = (home / f"{name}-{part}" for part in ("upper", "work", "target"))
        for path in (self.upper, self.work, self.target):
            path.mkdir()
        self.fds: list[int] = []
        self.held: list[int] = []  # directories and links
        self.server = 0
        self.is_ours = False

    def mount(self, ours: int) -> None:
        """`ours`: 0 kernel overlayfs, 1 our union over the index, 2 over the directories."""
        self.is_ours = bool(ours)
        if not ours:
            lower = ":".join(str(path) for path in self.lowers)
            options = f"lowerdir={lower},upperdir={self.upper},workdir={self.work},userxattr"
            assert libc.mount(b"overlay", os.fsencode(self.target), b"overlay", 0, options.encode()) == 0
            return
        layers: list[Any] = [self.tree] if ours == 1 else [DirectoryLayer(str(path)) for path in self.lowers]
        fd = mount_fuse(str(self.target), "rootless", read_only=False)

        def serve(fuse_fd: int, resume: bool) -> None:
            serve_union(fuse_fd, layers, str(self.upper), str(self.work), UnionOptions(), resume=resume)

        self.server = start_server(fd, serve)
        os.close(fd)

    def unmount(self) -> None:
        for fds in (self.fds, self.held):
            while fds:
                os.close(fds.pop())
        libc.umount2(os.fsencode(self.target), MNT_DETACH)
        if self.server:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.server, signal.SIGKILL)
            os.waitpid(self.server, 0)
            self.server = 0

    # -------------------------------------------------------------------------------------------- what can be done
    def create(self, path: str, data: bytes) -> None:
        fd = os.open(self.target / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        os.write(fd, data)
        os.close(fd)

    def opened(self, path: str, flags: int) -> int:
        """For writing. overlayfs copies up at once, we when something is written; of a file with several names that
        shows in the number of its links, so have it copied."""
        fd = os.open(self.target / path, flags)
        status = os.fstat(fd)
        if self.is_ours and status.st_nlink > 1:
            os.fchmod(fd, stat.S_IMODE(status.st_mode))
        return fd

    def write(self, path: str, data: bytes, flags: int) -> None:
        fd = self.opened(path, os.O_WRONLY | flags)
        os.write(fd, data)
        os.close(fd)

    def keep_open(self, path: str) -> None:
        self.fds.append(self.opened(path, os.O_RDWR | os.O_NOFOLLOW))

    def use_open(self, data: bytes, offset: int) -> object:
        if not self.fds:
            return None
        fd = self.fds[-1]
        os.pwrite(fd, data, offset)
        status = os.fstat(fd)
        return os.pread(fd, 10000, 0), status.st_nlink == 0, status.st_size

    def hold(self, path: str) -> None:
        fd = os.open(self.target / path, os.O_PATH | os.O_NOFOLLOW)
        if stat.S_ISDIR(mode := os.fstat(fd).st_mode) or stat.S_ISLNK(mode):
            self.held.append(fd)
        else:
            os.close(fd)

    def succeed(self, path: str, new: str) -> None:
        """Remove one that is held, and make another of its kind, which may be given its inode."""
        self.hold(path)
        if os.path.islink(self.target / path):
            os.unlink(self.target / path)
            os.symlink(new, self.target / new)
        else:
            os.rmdir(self.target / path)
            os.mkdir(self.target / new)
            os.close(os.open(self.target / new / "f0", os.O_WRONLY | os.O_CREAT, 0o600))

    def use_held(self, name: str) -> list[object]:
        """What they say, whether they are still there or not; where one is, a file is made in it. (Of what was in a
        layer alone overlayfs counts links after it was removed.)"""
        found: list[object] = []
        for fd in self.held:
            status = os.fstat(fd)
            found.append(stat.filemode(status.st_mode))
            if stat.S_ISLNK(status.st_mode):
                found.append(os.readlink(b"", dir_fd=fd))
                continue
            try:
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=fd))
            except OSError as error:
                found.append(error.errno)
            found.append(sorted(os.listdir(f"/proc/self/fd/{fd}")))
        return found

    def rename(self, path: str, target: str, flags: int) -> None:
        result = ctypes.PyDLL(None, use_errno=True).syscall(
            _RENAMEAT2, -100, os.fsencode(self.target / path), -100, os.fsencode(self.target / target), flags
        )
        if result:
            number = ctypes.get_errno()
            if number == errno.ESTALE and not self.is_ours and self._same_file(path, target):
                return  # a link made just now and its lower file: overlayfs should have done nothing, as we did
            raise OSError(number, "renameat2")

    def _same_file(self, path: str, other: str) -> bool:
        """The upper knows; overlayfs shows the inode numbers of the link and of the lower file."""
        return os.path.samestat(os.lstat(self.upper / path), os.lstat(self.upper / other))

    def link(self, path: str, target: str) -> None:
        os.link(self.target / path, self.target / target, follow_symlinks=False)

    def change(self, path: str, what: str) -> object:
        at = self.target / path
        if what == "chmod":
            os.chmod(at, 0o604)
        elif what == "utime":
            os.utime(at, ns=(10**9 + 1, -(10**9)), follow_symlinks=False)
        elif what == "xattr":
            os.setxattr(at, "user.a", b"1")
        elif what == "inner":
            os.setxattr(at, "user.overlay.opaque", b"y")
        elif what == "noxattr":
            os.removexattr(at, "user.a")
        elif what == "truncate":
            os.truncate(at, (os.stat(at).st_size + 3) % 7)  # another size always: see docs/storage.md
        elif what == "readlink":
            return os.readlink(at)
        elif what == "list":
            return sorted(os.listdir(at))
        elif what == "hidden":
            return sorted(os.listxattr(at))
        return None

    def clear(self, path: str) -> None:
        """rm -r, name by name while the directory is read."""
        for entry in os.scandir(self.target / path):
            if entry.is_dir(follow_symlinks=False):
                self.clear(f"{path}/{entry.name}")
            else:
                os.unlink(entry.path)
        os.rmdir(self.target / path)

    def snapshot(self) -> dict[str, object]:
        found: dict[str, object] = {}
        numbers: dict[int, str] = {}
        waiting = [""]
        while waiting:
            above = waiting.pop()
            for entry in os.scandir(self.target / above):
                path = f"{above}/{entry.name}".lstrip("/")
                status = os.lstat(entry.path)
                assert not self.is_ours or entry.inode() == status.st_ino, path
                row: list[object] = [stat.filemode(status.st_mode), status.st_uid, status.st_gid]
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path)
                elif stat.S_ISLNK(status.st_mode):
                    row.append(os.readlink(entry.path))
                else:
                    row += [Path(entry.path).read_bytes(), status.st_size, status.st_nlink]
                    same = numbers.setdefault(status.st_ino, path)
                    assert same == path or status.st_nlink > 1, (same, path)
                if status.st_mtime_ns < 10**18:  # one that was set
                    row.append(status.st_mtime_ns)
                if not stat.S_ISLNK(status.st_mode):
                    row.append({name: os.getxattr(entry.path, name) for name in os.listxattr(entry.path)})
                found[path] = row
        return found


class Lockstep(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="lockstep-"))

    @initialize(
        ours=st.sampled_from([1, 2]),
        lower=st.dictionaries(PATHS, st.sampled_from([b"one", b"z" * 5000])),
        middle=st.dictionaries(PATHS, st.sampled_from([b"two", b"", None]), max_size=4),
        links=st.lists(st.tuples(st.sampled_from(["lower", "middle", "across"]), PATHS, PATHS), max_size=6),
    )
    def begin(
        self,
        ours: int,
        lower: dict[str, bytes],
        middle: dict[str, bytes | None],
        links: list[tuple[str, str, str]],
    ) -> None:
        self.ours = ours
        lowers = [self.home / "middle", self.home / "lower"]
        for path in lowers:
            path.mkdir()
        fill(lowers[1], lower)
        # a whiteout of nothing is shown by READDIR of overlayfs, and not found
        fill(lowers[0], {k: v for k, v in middle.items() if v is not None or os.path.lexists(lowers[1] / k)})
        join(lowers[1], lowers[0], links)
        archives = []
        inodes: dict[tuple[int, int], str] = {}
        for number, path in enumerate(reversed(lowers)):
            archives.append(self.home / f"layer{number}")
            write_layer(archives[-1], packed(path, inodes))
        merge_tree(archives, self.home / "tree")
        tree = self.tree = open_tree(self.home / "tree", archives)
        self.sides = [Side(self.home, name, lowers, tree) for name in ("ours", "kernels")]
        self.sides[0].mount(ours)
        self.sides[1].mount(0)

    def both(self, action: Callable[[Side], object]) -> None:
        results = []
        for side in self.sides:
            try:
                results.append(("done", action(side)))
            except OSError as error:
                results.append(("failed", errno.errorcode[error.errno or 0]))
        if self.sides[1].is_ours:
            results.reverse()
        assert results[0] == results[1], results

    @rule(path=PATHS, data=DATA)
    def create(self, path: str, data: bytes) -> None:
        self.both(lambda side: side.create(path, data))

    @rule(path=PATHS, data=DATA, flags=st.sampled_from([0, os.O_TRUNC, os.O_APPEND]))
    def write(self, path: str, data: bytes, flags: int) -> None:
        self.both(lambda side: side.write(path, data, flags))

    @rule(path=PATHS)
    def mkdir(self, path: str) -> None:
        self.both(lambda side: os.mkdir(side.target / path, 0o750))

    @rule(path=PATHS)
    def rmdir(self, path: str) -> None:
        self.both(lambda side: os.rmdir(side.target / path))

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        self.both(lambda side: os.unlink(side.target / path))

    @rule(path=PATHS)
    def clear(self, path: str) -> None:
        self.both(lambda side: side.clear(path))

    @rule(path=PATHS, text=st.sampled_from(["f0", "d0/f0", "nowhere"]))
    def symlink(self, path: str, text: str) -> None:
        self.both(lambda side: os.symlink(text, side.target / path))

    @rule(path=PATHS)
    def fifo(self, path: str) -> None:
        self.both(lambda side: os.mkfifo(side.target / path, 0o600) or os.unlink(side.target / path))

    @rule(path=PATHS, new=PATHS, flags=st.sampled_from([0, 0, 1, 2, 2, 4]))
    def rename(self, path: str, new: str, flags: int) -> None:
        self.both(lambda side: side.rename(path, new, flags))

    @rule(path=PATHS, new=PATHS)
    def link(self, path: str, new: str) -> None:
        self.both(lambda side: side.link(path, new))

    @rule(
        path=PATHS,
        what=st.sampled_from(["chmod", "utime", "xattr", "noxattr", "inner", "truncate", "readlink", "list", "hidden"]),
    )
    def change(self, path: str, what: str) -> None:
        self.both(lambda side: side.change(path, what))

    @rule(path=PATHS)
    def keep_open(self, path: str) -> None:
        self.both(lambda side: side.keep_open(path))

    @rule(data=DATA, offset=st.integers(0, 6000))
    def use_open(self, data: bytes, offset: int) -> None:
        self.both(lambda side: side.use_open(data, offset))

    @rule(path=PATHS)
    def hold(self, path: str) -> None:
        self.both(lambda side: side.hold(path))

    @rule(path=PATHS, new=PATHS)
    def succeed(self, path: str, new: str) -> None:
        self.both(lambda side: side.succeed(path, new))

    @rule(name=st.sampled_from(["f0", "d0"]))
    def use_held(self, name: str) -> None:
        self.both(lambda side: side.use_held(name))

    @rule()
    def change_drivers(self) -> None:
        """Each goes on with what the other has written."""
        for side in self.sides:
            was_ours = side.is_ours
            side.unmount()
            side.mount(0 if was_ours else self.ours)

    @invariant()
    def same(self) -> None:
        if hasattr(self, "sides"):
            ours, kernels = (side.snapshot() for side in self.sides)
            assert ours == kernels

    def teardown(self) -> None:
        for side in getattr(self, "sides", []):
            side.unmount()
        if hasattr(self, "tree"):
            self.tree.close()
        for path, directories, _ in os.walk(self.home):
            for name in directories:
                if not os.path.islink(os.path.join(path, name)):
                    os.chmod(os.path.join(path, name), 0o700)
        shutil.rmtree(self.home)


def test_it_does_as_overlayfs_does() -> None:
    def child() -> None:
        enter_namespaces()
        os.umask(0)
        run_state_machine_as_test(
            Lockstep,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=30,
                deadline=None,
                database=None,
                derandomize=EXAMPLES == 25,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
        )

    in_child(child)
