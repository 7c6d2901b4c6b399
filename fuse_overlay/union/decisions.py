"""What each change of names means for the upper directory of an overlay. Pure: who asks says what is there, and does
what is answered.

`below` is the question that decides everything: would the layers below show something under this name if the upper had
nothing there? Then a removal must leave a whiteout, and a directory that comes in its place must be opaque.
Source: Documentation/filesystems/overlayfs.rst; fs/overlayfs/dir.c."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import NamedTuple

NOREPLACE, EXCHANGE = 1, 2  # renameat2(2)


class Removal(enum.Enum):
    """UNLINK takes it out of the upper, HIDE puts a whiteout where that has nothing, REPLACE one over what it has."""

    UNLINK = enum.auto()
    HIDE = enum.auto()
    REPLACE = enum.auto()


@dataclass(frozen=True)
class Refusal:
    """The change is not to be made; `errno` says why."""

    errno: int


class Seen(NamedTuple):
    """What is under a name. `merged`: a directory through which layers below show, or that is one of them;
    `empty` of a directory: it shows nothing."""

    directory: bool
    in_upper: bool
    below: bool
    merged: bool = False
    empty: bool = True


@dataclass(frozen=True)
class Move:
    """A rename. First `copy_up` the source (for an exchange, `copy_up_target` too) and `empty_target` of its whiteouts;
    make the source (and the target) opaque; then rename, and `leave_whiteout` under the old name."""

    exchange: bool = False
    copy_up: bool = False
    copy_up_target: bool = False
    empty_target: bool = False
    opaque: bool = False
    opaque_target: bool = False
    leave_whiteout: bool = False


def removal(seen: Seen) -> Removal | Refusal:
    """For unlink and rmdir of what is there."""
    if seen.directory and not seen.empty:
        return Refusal(errno.ENOTEMPTY)
    if not seen.in_upper:
        return Removal.HIDE
    return Removal.REPLACE if seen.below else Removal.UNLINK


def move(source: Seen, target: Seen | None, below_target: bool, flags: int) -> Move | Refusal:
    """`target` is what is under the new name, if anything; `below_target` as `below`, of that name.

    A directory that is merged cannot be moved: that would need a redirect, which the format for users has not."""
    if flags & ~(NOREPLACE | EXCHANGE) or flags == NOREPLACE | EXCHANGE:
        return Refusal(errno.EINVAL)
    if source.merged:
        return Refusal(errno.EXDEV)
    if flags & EXCHANGE:
        return _exchange(source, target, below_target)
    if target is not None:
        if flags & NOREPLACE:
            return Refusal(errno.EEXIST)
        if source.directory != target.directory:
            return Refusal(errno.ENOTDIR if source.directory else errno.EISDIR)
        if target.directory and not target.empty:
            return Refusal(errno.ENOTEMPTY)
    return Move(
        copy_up=not source.in_upper,
        empty_target=target is not None and target.directory and target.in_upper,
        opaque=source.directory and below_target,
        leave_whiteout=source.below,
    )


def _exchange(source: Seen, target: Seen | None, below_target: bool) -> Move | Refusal:
    if target is None:
        return Refusal(errno.ENOENT)
    if target.merged:
        return Refusal(errno.EXDEV)
    return Move(
        exchange=True,
        copy_up=not source.in_upper,
        copy_up_target=not target.in_upper,
        opaque=source.directory and below_target,
        opaque_target=target.directory and source.below,
    )
