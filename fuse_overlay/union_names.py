"""Requests of a writable union that change names: create, remove, rename, link. What overlayfs does to its upper for
each, `union/decisions` says; it is done here, and then remembered.

Nothing is remembered before the upper has it: a full disk leaves both as they were."""

from __future__ import annotations

import errno
import os
import stat
from typing import TypeVar

from fuse_overlay.attributes import with_links
from fuse_overlay.device import Device
from fuse_overlay.nodes import UPPER_ID, Directory, File
from fuse_overlay.union import decisions, marks
from fuse_overlay.union_tree import Node, UnionTree
from fuse_overlay.upper import RENAME_EXCHANGE, rename2

_RENAME_WHITEOUT = 4
DEFAULT_ACL = b"system.posix_acl_default"
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


Decision = TypeVar("Decision", decisions.Move, decisions.Removal)


class Names:
    """Methods are called with what a request says; they raise OSError. The caller's ids are the device's."""

    def __init__(self, tree: UnionTree, device: Device) -> None:
        self._tree = tree
        self._upper = tree.upper
        self._device = device
        self._aside = Directory(0, tree.root, b"", [])  # stands for the work directory, where unlinked files wait

    # ------------------------------------------------------------------------------------------------ making
    def make_file(
        self, directory: Directory, name: bytes, mode: int, umask: int, rdev: int
    ) -> tuple[File, os.stat_result]:
        """A regular file, FIFO, socket or device."""
        if marks.is_whiteout(mode, rdev):
            raise OSError(errno.EPERM, "that would be a whiteout")
        parent = self._tree.upper_fd(directory)
        hidden = bool(directory.lowers) and self._tree.in_lowers(directory, name)
        if self._inherits(directory, parent):
            hidden = hidden and not self._uncover(parent, name)
        else:
            mode &= ~umask
        fd = -1
        if stat.S_ISREG(mode):
            where, made = (self._upper.work, self._upper.temporary()) if hidden else (parent, name)
            try:
                fd = os.open(made, _CREATE, mode & 0o7777, dir_fd=where)
            except FileExistsError:  # a whiteout of something that is not there
                where, made = self._upper.work, self._upper.temporary()
                fd = os.open(made, _CREATE, mode & 0o7777, dir_fd=where)
            status = self._give(fd, None, parent, mode, where is not parent)
            if where is not parent:
                try:
                    self._upper.move_in(made, parent, name)
                except OSError:
                    os.close(fd)
                    raise
        elif not directory.lowers:
            os.mknod(name, mode, rdev, dir_fd=parent)
            status = self._give(parent, name, parent, mode, False)
        else:
            temporary = self._upper.temporary()
            os.mknod(temporary, mode, rdev, dir_fd=self._upper.work)
            status = self._give(self._upper.work, temporary, parent, mode, True)
            self._upper.move_in(temporary, parent, name)
        file, status = self._made(directory, name, status, fd)
        file.bare = True
        return file, status

    def make_link(self, directory: Directory, name: bytes, text: bytes) -> tuple[File, os.stat_result]:
        parent = self._tree.upper_fd(directory)
        if not directory.lowers:
            try:
                os.symlink(text, name, dir_fd=parent)
                return self._made(directory, name, self._give(parent, name, parent, stat.S_IFLNK, False), -1)
            except FileExistsError:
                pass
        temporary = self._upper.temporary()
        os.symlink(text, temporary, dir_fd=self._upper.work)
        status = self._give(self._upper.work, temporary, parent, stat.S_IFLNK, True)
        self._upper.move_in(temporary, parent, name)
        return self._made(directory, name, status, -1)

    def make_directory(
        self, directory: Directory, name: bytes, mode: int, umask: int
    ) -> tuple[Directory, os.stat_result]:
        parent = self._tree.upper_fd(directory)
        hidden = bool(directory.lowers) and self._tree.in_lowers(directory, name)
        inherits = self._inherits(directory, parent)
        if not inherits:
            mode &= ~umask
        try:
            if hidden and not (inherits and self._uncover(parent, name)):
                raise FileExistsError
            os.mkdir(name, mode, dir_fd=parent)
            if hidden:
                self._make_opaque(parent, name)
            status = self._give(parent, name, parent, mode | stat.S_IFDIR, False)
        except FileExistsError:
            status = self._directory_over_whiteout(parent, name, mode)
        return self._tree.new_directory(directory, name, status), status

    def _directory_over_whiteout(self, parent: int, name: bytes, mode: int) -> os.stat_result:
        temporary, work = self._upper.temporary(), self._upper.work
        os.mkdir(temporary, mode, dir_fd=work)
        try:
            status = self._give(work, temporary, parent, mode | stat.S_IFDIR, True)
            os.setxattr(b"/proc/self/fd/%d/%s" % (work, temporary), marks.OPAQUE, b"y")
            rename2(work, temporary, parent, name, RENAME_EXCHANGE)
        except OSError:
            os.rmdir(temporary, dir_fd=work)
            raise
        os.unlink(temporary, dir_fd=work)
        return status

    def _inherits(self, directory: Directory, parent: int) -> bool:
        """Whether a directory has a default ACL: what is made in it gets that in the umask's stead, from the upper."""
        if directory.default_acl is None:
            directory.default_acl = self._upper.xattr(parent, b"", DEFAULT_ACL) is not None
        return directory.default_acl

    def _uncover(self, parent: int, name: bytes) -> bool:
        """Take a whiteout away, so that something can be made in its place and inherit."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        return True

    def make_unnamed(self, directory: Directory, mode: int, umask: int) -> tuple[File, os.stat_result]:
        """O_TMPFILE."""
        parent = self._tree.upper_fd(directory)
        if not self._inherits(directory, parent):
            mode &= ~umask
        fd = os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode & 0o7777, dir_fd=parent)
        status = self._give(fd, None, parent, mode, False)
        file = self._tree.new_file(status)
        self._upper.keep_file(file, fd)
        return file, status

    def _made(self, directory: Directory, name: bytes, status: os.stat_result, fd: int) -> tuple[File, os.stat_result]:
        file = self._tree.new_file(status)
        file.places.append((directory, name))
        directory.put(name, file)
        if fd >= 0:
            self._upper.keep_open(file, fd)
        return file, status

    def _give(self, fd: int, name: bytes | None, parent: int, mode: int, elsewhere: bool) -> os.stat_result:
        """To the caller, or to the group of a set-GID directory. What was made `elsewhere` knows nothing of that."""
        uid, gid = self._device.uid, self._device.gid
        status = os.fstat(fd) if name is None else os.stat(name, dir_fd=fd, follow_symlinks=False)
        if uid == 0 and gid == 0 and not elsewhere:
            return status
        above = os.fstat(parent)
        inherited = bool(above.st_mode & stat.S_ISGID)
        if inherited:
            gid = above.st_gid
        changed = (status.st_uid, status.st_gid) != (uid, gid)
        if changed:
            self._upper.give(fd, name, uid, gid, bare=True)
        if stat.S_ISDIR(mode) and inherited:
            mode |= stat.S_ISGID
        if not stat.S_ISLNK(mode) and mode & 0o6000:  # chown has cleared them
            mode = stat.S_IMODE(status.st_mode) | mode & 0o6000
            if name is None:
                os.fchmod(fd, mode)
            else:
                os.chmod(name, mode, dir_fd=fd)
            changed = True
        if not changed:
            return status
        return os.fstat(fd) if name is None else os.stat(name, dir_fd=fd, follow_symlinks=False)

    # ------------------------------------------------------------------------------------------------ removing
    def unlink(self, directory: Directory, name: bytes) -> None:
        tree, upper = self._tree, self._upper
        node = tree.find(directory, name)
        if node is None:
            raise OSError(errno.ENOENT, "no such name")
        if isinstance(node, Directory):
            raise OSError(errno.EISDIR, "a directory")
        decision = _allowed(decisions.removal(self._seen(directory, name, node)))
        parent = tree.upper_fd(directory)
        if isinstance(node, int):
            upper.whiteout(parent, name)
            tree.orphan(node)
        else:
            self._before_loss(node, directory, name)
            if decision is decisions.Removal.REPLACE:
                upper.replace_by_whiteout(parent, name)
            else:
                os.unlink(name, dir_fd=parent)
            self._after_loss(node, directory, name)
        directory.drop(name)

    def _seen(self, directory: Directory, name: bytes, node: Node, *, moved: bool = False) -> decisions.Seen:
        """What is under a name, as `decisions` wants to know it; whether it is empty does not matter for a move."""
        below = bool(directory.lowers) and self._tree.in_lowers(directory, name)
        if not isinstance(node, Directory):
            return decisions.Seen(False, not isinstance(node, int), below)
        return decisions.Seen(True, node.in_upper, below, bool(node.lowers), moved or self._shows_nothing(node))

    def _shows_nothing(self, node: Directory) -> bool:
        if node.names is None:
            self._tree.listings.load(node)
        return not node.names

    def _before_loss(self, file: File, directory: Directory, name: bytes) -> None:
        """Its data must outlive the name if somebody has it open, which nobody tells us."""
        if len(file.places) > 1:
            return
        if not stat.S_ISREG(file.mode):
            file.final = with_links(self._tree.attributes(file), 1)
            if file.id & UPPER_ID:
                self._upper.hold(file)
        elif self._upper.may_keep:
            self._upper.file_fd(file)
        else:
            parent = self._upper.directory_fd(directory)
            temporary = self._upper.temporary()
            os.link(name, temporary, src_dir_fd=parent, dst_dir_fd=self._upper.work, follow_symlinks=False)
            file.places.append((self._aside, temporary))

    def _after_loss(self, file: File, directory: Directory, name: bytes) -> None:
        file.places.remove((directory, name))
        if not file.places and file.fd >= 0:
            self._upper.keep_file(file, file.fd)

    def rmdir(self, directory: Directory, name: bytes) -> None:
        tree, upper = self._tree, self._upper
        node = tree.find(directory, name)
        if node is None:
            raise OSError(errno.ENOENT, "no such name")
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, "not a directory")
        decision = _allowed(decisions.removal(self._seen(directory, name, node)))
        final = self._before_removal(node)
        parent = tree.upper_fd(directory)
        if decision is decisions.Removal.HIDE:
            upper.whiteout(parent, name)
        elif decision is decisions.Removal.REPLACE:
            upper.exchange_directory_for_whiteout(parent, name)
        else:
            upper.take_away(parent, name)
        self._directory_gone(directory, name, node, final)

    def _before_removal(self, node: Directory) -> bytes:
        """Its last attributes."""
        if node.id & UPPER_ID:
            self._upper.directory_fd(node)  # to be kept
        return with_links(self._tree.attributes(node), 1 << 32)

    def _directory_gone(self, directory: Directory, name: bytes, node: Directory, final: bytes) -> None:
        node.gone, node.final = True, final
        if node.id & UPPER_ID:
            self._upper.keep_directory(node)
        else:
            self._upper.close_directory(node)
        self._tree.listings.drop(node)
        node.set_names({}, [])
        node.lowers = []
        directory.drop(name)

    # ------------------------------------------------------------------------------------------------ renaming
    def rename(self, source: Directory, name: bytes, target: Directory, new_name: bytes, flags: int) -> None:
        """Directories that are merged, or of a lower, give EXDEV (as overlayfs without redirects): who moves them
        copies them then."""
        tree = self._tree
        node = tree.find(source, name)
        replaced = tree.find(target, new_name)
        if node is None:
            raise OSError(errno.ENOENT, "no such name")
        seen = None if replaced is None else self._seen(target, new_name, replaced)
        below = seen.below if seen else bool(target.lowers) and tree.in_lowers(target, new_name)
        plan = _allowed(decisions.move(self._seen(source, name, node, moved=True), seen, below, flags))
        if isinstance(node, int):
            node = tree.copy_up(source, name, node)
        if plan.exchange and isinstance(replaced, int):
            replaced = tree.copy_up(target, new_name, replaced)
        final = self._before_removal(replaced) if isinstance(replaced, Directory) and not plan.exchange else b""
        tree.upper_fd(source)
        target_fd = tree.upper_fd(target)
        source_fd = tree.upper_fd(source)
        if plan.opaque:
            self._make_opaque(source_fd, name)
        if plan.exchange:
            if plan.opaque_target:
                self._make_opaque(target_fd, new_name)
            rename2(source_fd, name, target_fd, new_name, RENAME_EXCHANGE)
            assert replaced is not None
            assert not isinstance(replaced, int)
            self._settle(node, source, name, target, new_name)
            self._settle(replaced, target, new_name, source, name)
            return
        if isinstance(replaced, File):
            self._before_loss(replaced, target, new_name)
        elif isinstance(replaced, Directory) and plan.empty_target:
            self._empty(replaced, target_fd, new_name)
        self._rename(source_fd, name, target_fd, new_name, plan.leave_whiteout, isinstance(node, Directory))
        if isinstance(replaced, File):
            self._after_loss(replaced, target, new_name)
        elif isinstance(replaced, Directory):
            self._directory_gone(target, new_name, replaced, final)
        elif isinstance(replaced, int):
            tree.orphan(replaced)
        source.drop(name)
        self._settle(node, source, name, target, new_name)

    def _settle(
        self, node: Directory | File, source: Directory, name: bytes, target: Directory, new_name: bytes
    ) -> None:
        """Remember where a node is now."""
        if isinstance(node, Directory):
            node.parent, node.name = target, new_name
        else:
            if (source, name) in node.places:
                node.places.remove((source, name))
            node.places.append((target, new_name))
        target.put(new_name, node)

    def _rename(
        self, source_fd: int, name: bytes, target_fd: int, new_name: bytes, leaves_whiteout: bool, is_directory: bool
    ) -> None:
        if is_directory:
            try:
                status = os.stat(new_name, dir_fd=target_fd, follow_symlinks=False)
            except FileNotFoundError:
                status = None
            if status is not None and not stat.S_ISDIR(status.st_mode):  # a whiteout: changes places with it
                rename2(source_fd, name, target_fd, new_name, RENAME_EXCHANGE)
                if not leaves_whiteout:
                    os.unlink(name, dir_fd=source_fd)
                return
        if not leaves_whiteout:
            os.rename(name, new_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
            return
        try:
            rename2(source_fd, name, target_fd, new_name, _RENAME_WHITEOUT)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.ENOSYS):
                raise
            os.rename(name, new_name, src_dir_fd=source_fd, dst_dir_fd=target_fd)
            self._upper.whiteout(source_fd, name)

    def _make_opaque(self, parent: int, name: bytes) -> None:
        os.setxattr(b"/proc/self/fd/%d/%s" % (parent, name), marks.OPAQUE, b"y")

    def _empty(self, directory: Directory, parent: int, name: bytes) -> None:
        """Take the whiteouts out of a directory that shows nothing, which must not make anything show."""
        if directory.lowers:
            self._make_opaque(parent, name)
        fd = self._upper.directory_fd(directory)
        for left in os.listdir(fd):
            os.unlink(left, dir_fd=fd)

    # ------------------------------------------------------------------------------------------------ linking
    def link(self, file: File, directory: Directory, name: bytes) -> os.stat_result:
        parent = self._tree.upper_fd(directory)
        try:
            if directory.lowers and self._tree.in_lowers(directory, name):
                raise FileExistsError
            self._link(file, parent, name)
        except FileExistsError:
            temporary = self._upper.temporary()
            self._link(file, self._upper.work, temporary)
            self._upper.move_in(temporary, parent, name)
        file.places.append((directory, name))
        file.final = b""
        directory.put(name, file)
        if file.kept:
            self._upper.keep_open_again(file)
        return self._tree.file_status(file)

    def _link(self, file: File, parent: int, name: bytes) -> None:
        if file.places:
            source, own = self._upper.place(file)
            os.link(own, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        else:
            os.link(b"/proc/self/fd/%d" % file.fd, name, dst_dir_fd=parent, follow_symlinks=True)


def _allowed(decision: Decision | decisions.Refusal) -> Decision:
    if isinstance(decision, decisions.Refusal):
        raise OSError(decision.errno, "refused")
    return decision
