"""Starts the engine: `python -m rootless.engine --detached` by the first command, `rootless engine` in the foreground.

The launcher, if none runs, is started before anything heavy is imported: the two start side by side. The API's socket
is put in place at the very end: a socket that can be connected to is an engine that works."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys

from rootless import settings as settings_module
from rootless.launcher.spawn import listens, spawn_launcher
from rootless.model.errors import RootlessError
from rootless.settings import Settings
from rootless.store import process_lock

MAX_LOG_BYTES = 1 << 20  # at its start an engine empties a log that is larger


def main(detached: bool = False) -> int:
    """Exit code 1 and a message on stderr where it cannot start, or where another engine has the state root.

    `detached`: the log is its stderr, it leaves its directory, and that another engine was faster is no failure."""
    try:
        settings = settings_module.load(os.environ)
        settings_module.ensure_runtime_dir(settings)
        if detached:
            os.chdir("/")
            _write_to_the_log(settings)
        settings.state_root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = process_lock.take(settings.engine_lock, str(settings.api_socket))
        if lock is None:
            return 0 if detached else _say_who_has_it(settings)
        if detached and os.fstat(2).st_size > MAX_LOG_BYTES:
            os.ftruncate(2, 0)
        starting = None if listens(settings) else spawn_launcher(settings)
        return _serve(settings, starting)
    except (RootlessError, OSError) as error:
        sys.stderr.write(f"rootless engine: {error}\n")
        return 1


def _write_to_the_log(settings: Settings) -> None:
    log = os.open(settings.engine_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _say_who_has_it(settings: Settings) -> int:
    other = process_lock.holder(settings.engine_lock)
    where = f" (process {other.pid}, listening on {other.text})" if other else ""
    sys.stderr.write(f"rootless engine: another engine{where} has the state root {settings.state_root}\n")
    return 1


def _serve(settings: Settings, starting: subprocess.Popen[bytes] | None) -> int:
    gc.disable()  # of what imports allocate nothing becomes garbage
    import trio

    from rootless.api.server import serve
    from rootless.engine.engine import Engine

    gc.freeze()
    gc.set_threshold(10_000)  # of the 700 it has, a large image's entries are looked through for garbage all the time
    gc.enable()

    async def run() -> RootlessError | OSError | None:
        """What went wrong before it could serve."""
        async with trio.open_nursery() as nursery:
            engine = Engine(settings, nursery, starting)
            try:
                await engine.prepare()
            except BaseException as error:
                if starting is not None:  # nobody would ever end it
                    starting.terminate()
                if not isinstance(error, RootlessError | OSError):
                    raise
                nursery.cancel_scope.cancel()
                return error
            nursery.start_soon(_signals, engine)
            nursery.start_soon(engine.leave_when_idle)
            with trio.open_signal_receiver(signal.SIGPIPE):
                await serve(engine, _listen(settings))
            nursery.cancel_scope.cancel()
        return None

    async def _signals(engine: Engine) -> None:
        """SIGTERM and ctrl-C: leave at once; containers go on without us."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for _ in received:
                engine.leaving.set()

    if (failure := trio.run(run)) is not None:
        raise failure
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
    sys.exit(main(detached="--detached" in sys.argv[1:]))
