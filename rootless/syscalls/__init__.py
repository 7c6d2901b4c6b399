"""System calls the standard library lacks, behind one Protocol: `Kernel` performs them, `Recorder` only notes them.

Passed in, never global: the runtime's steps take a `Syscalls`, so that a test can read what would be done."""

from rootless.syscalls.kernel import Kernel
from rootless.syscalls.protocol import Recorder, Syscalls

__all__ = ["Kernel", "Recorder", "Syscalls"]
