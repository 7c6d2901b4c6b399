"""A layer while it is fetched, so that a pull that was cut off is taken up again by the next, whoever that is.

    tmp/layer-<packed digest>/.lock    held by the pull at work on it
                              packed   what has come so far, as it came
                              new/     being unpacked from that; an unpacker's state cannot be kept, so it begins anew
                              layer/   complete, verified, synced; at once moved to its place
                              holds    that place: it stays until its image is there, or nobody pulls it for days

A plain tar is not kept twice: the layer.tar in new/ is what has come. Blocking; called from worker threads."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import shutil
import time

from fuse_overlay import LayerError, read_layer
from rootless.images.storing import LayerBeingStored, explained
from rootless.model.errors import InvalidParameter
from rootless.store import files
from rootless.store.layout import HOLDS, Layout, hex_of

KEPT_SECONDS = 3 * 24 * 3600
_REPLAY_BYTES = 1 << 20


class Kept(enum.Enum):
    """What a pull that is cut off leaves to the next: nothing, what came, or the tar itself where that is what came."""

    NOTHING = enum.auto()
    PACKED = enum.auto()
    PLAIN = enum.auto()


class PartialLayer:
    """try_lock() until it is True; then begin(), write() …, finish(); keep() or discard() at the end."""

    def __init__(self, layout: Layout, digest: str, *, idle_cpus: bool = True) -> None:
        """`idle_cpus`: see LayerBeingStored."""
        self.digest = digest
        self._idle_cpus = idle_cpus
        self._directory = layout.temporary / f"layer-{hex_of(digest)}"
        self.layer = self._directory / "layer"
        self._new, self._packed = self._directory / "new", self._directory / "packed"
        self._holds = self._directory / HOLDS
        self._kept = Kept.NOTHING
        self._lock = -1
        self._spool = -1
        self._storing: LayerBeingStored | None = None

    def try_lock(self) -> bool:
        """False while another pull, here or in another process, is at work on this layer. Raises RootlessError."""
        try:
            self._directory.mkdir(exist_ok=True)
            fd = os.open(self._directory / ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (FileNotFoundError, FileExistsError):
            return False  # removed just then: mkdir says that it exists where it has gone before it is looked at
        except OSError as error:
            raise explained(error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                self._lock = fd
                return True
        except OSError:
            pass
        os.close(fd)
        return False

    def finished(self) -> str:
        """The diff id, where an earlier pull got that far; else "" ."""
        try:
            return read_layer(self.layer).diff_id
        except (LayerError, OSError):
            return ""

    def begin(self, kept: Kept) -> int:
        """Make ready to be written to; returns how many bytes are here. Raises RootlessError, InvalidParameter."""
        self._kept = kept
        try:
            self._keep_plain()
            for left in (self.layer, self._new):
                shutil.rmtree(left, ignore_errors=True)
            self._storing = LayerBeingStored(self._new, idle_cpus=self._idle_cpus)
            if kept is Kept.NOTHING:
                return 0
            spool = os.open(self._packed, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                at = 0
                while data := os.pread(spool, _REPLAY_BYTES, at):
                    self._storing.write(data)
                    at += len(data)
                if kept is Kept.PACKED:
                    self._spool, spool = spool, -1
                else:
                    self._packed.unlink()
            finally:
                if spool >= 0:
                    os.close(spool)
            return at
        except OSError as error:
            raise explained(error) from error

    def _keep_plain(self) -> None:
        """What has come of a plain tar, where no earlier pull's is still being copied."""
        if self._kept is Kept.PLAIN and not self._packed.exists():
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._new / "layer.tar", self._packed)

    def write(self, data: bytes) -> None:
        """Raises RootlessError (disk), InvalidParameter (archive)."""
        assert self._storing is not None
        if self._spool >= 0:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._spool, view) :]
            except OSError as error:
                raise explained(error) from error
        self._storing.write(data)

    def finish(self, diff_id: str, host: str) -> None:
        """Both digests are checked. Raises InvalidParameter, RootlessError."""
        assert self._storing is not None
        if self._storing.digest != self.digest:
            raise InvalidParameter(f"{host} sent a damaged layer {self.digest}")
        made = self._storing.finish()
        if made.diff_id != diff_id:
            raise InvalidParameter(f"layer {self.digest} unpacks to {made.diff_id}, not to {diff_id} as it should")
        try:
            os.rename(self._new, self.layer)
            self._packed.unlink(missing_ok=True)
        except OSError as error:
            raise explained(error) from error

    def hold(self, diff_id: str) -> None:
        """Nobody collects the layer that is about to be moved to its place. Raises OSError."""
        files.write_file(self._holds, json.dumps([diff_id]).encode())

    def restart(self) -> None:
        """Forget what has come."""
        self._close()
        self._packed.unlink(missing_ok=True)
        shutil.rmtree(self._new, ignore_errors=True)

    def keep(self) -> None:
        """Leave it for the next pull, if it is of any use to that."""
        self._close()
        self._keep_plain()
        shutil.rmtree(self._new, ignore_errors=True)
        if not any(path.exists() for path in (self.layer, self._packed, self._holds)):
            self.discard()
        elif self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def give_up(self, *, keep_parts: bool) -> None:
        """Hold the layer no more and, but for `keep_parts`, forget what has come. Not where another pull is at work."""
        if self._directory.exists() and self.try_lock():
            self._holds.unlink(missing_ok=True)
            self.keep() if keep_parts else self.discard()

    def discard(self) -> None:
        self._close()
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _close(self) -> None:
        if self._spool >= 0:
            os.close(self._spool)
            self._spool = -1
        if self._storing is not None:
            self._storing.abort()
            self._storing = None


def remove_old(layout: Layout, older_than_seconds: float = KEPT_SECONDS) -> None:
    """Remove what was cut off so long ago that nobody will take it up again."""
    oldest = time.time() - older_than_seconds
    for directory in layout.temporary.glob("layer-*"):
        partial = PartialLayer(layout, f"sha256:{directory.name.removeprefix('layer-')}")
        with contextlib.suppress(FileNotFoundError):  # somebody else is at work there: it is not old
            newest = max((path.stat().st_mtime for path in directory.iterdir()), default=0.0)
            if newest < oldest and partial.try_lock():
                partial.discard()
