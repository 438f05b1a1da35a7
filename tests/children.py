"""Processes that tests start."""

import signal


def listen() -> None:
    """`preexec_fn` of a child: signals as in a terminal. A shell starts jobs in the background deaf to Ctrl-C, `nohup`
    to SIGHUP, and so would be what these start."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
