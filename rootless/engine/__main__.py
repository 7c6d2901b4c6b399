"""Starts the engine: `python -m rootless.engine`, by the first command, or `rootless engine` in the foreground.

The launcher, if none runs, is started before anything heavy is imported: the two start side by side. The API's socket
is put in place at the very end: a socket that can be connected to is an engine that works."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys

from rootless import settings as settings_module
from rootless.launcher.spawn import listens, spawn_launcher
from rootless.model.errors import RootlessError
from rootless.settings import Settings


def main() -> int:
    """Exit code 1 and a message on stderr where it cannot start; 0 also where another engine runs already."""
    try:
        settings = settings_module.load(os.environ)
        settings_module.ensure_runtime_dir(settings)
        lock = _only_one(settings)
        if lock is None:
            sys.stderr.write(f"rootless engine: another one runs already on {settings.api_socket}\n")
            return 0
        starting = None if listens(settings) else spawn_launcher(settings)
        return _serve(settings, starting)
    except (RootlessError, OSError) as error:
        sys.stderr.write(f"rootless engine: {error}\n")
        return 1


def _only_one(settings: Settings) -> int | None:
    """A lock on the state root, held as long as we live; None where another engine has it."""
    settings.state_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(settings.state_root / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _serve(settings: Settings, starting: subprocess.Popen[bytes] | None) -> int:
    import trio

    from rootless.api.server import serve
    from rootless.engine.engine import Engine

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            engine = Engine(settings, nursery, starting)
            await engine.prepare()
            nursery.start_soon(_signals, engine)
            nursery.start_soon(engine.leave_when_idle)
            with trio.open_signal_receiver(signal.SIGPIPE):
                await serve(engine, _listen(settings))
            nursery.cancel_scope.cancel()

    async def _signals(engine: Engine) -> None:
        """SIGTERM and ctrl-C: leave at once; containers go on without us."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for _ in received:
                engine.leaving.set()

    trio.run(run)
    return 0


def _listen(settings: Settings) -> socket.socket:
    path = settings.api_socket
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(temporary))
    temporary.chmod(0o600)
    listener.listen(128)
    temporary.rename(path)
    return listener


if __name__ == "__main__":
    sys.exit(main())
