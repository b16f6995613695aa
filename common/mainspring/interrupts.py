"""Ctrl-C while a program starts: one line and exit code 130, not the stack of whatever was being imported.

The `mainspring` command becomes the coordinator or the worker, whose imports take a second in which nobody can catch a signal. So it
holds SIGINT back, the program lets it in as its first act, and one that came meanwhile is a KeyboardInterrupt there.
"""

import signal
import sys
from typing import Final

exit_interrupted: Final = 130


def hold_interrupts() -> None:
    """Let SIGINT wait, also for the program that takes this process over."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def let_interrupts_in() -> None:
    """Raise KeyboardInterrupt if a SIGINT waited, and from now on at once."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def interrupted() -> int:
    """Say that we were interrupted; return the exit code."""
    sys.stderr.write("mainspring: interrupted\n")
    return exit_interrupted
