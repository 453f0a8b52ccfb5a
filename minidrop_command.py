"""The command `minidrop`, outside of the package, whose import takes a while: Ctrl-C is heard meanwhile."""

import os
import signal


def main():
    """Run the command line of this process, and exit; Ctrl-C ends it in one line from the beginning."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        # No exception: libraries that are being imported, such as NumPy, turn it into errors of their own.
        signal.signal(signal.SIGINT, _leave)
    from minidrop import cli
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


def _leave(number, frame):
    """Signal handler that ends the process at once, as that of minidrop.cli; nothing is written yet."""
    os.write(2, b"\n" * os.isatty(2) + b"stopped by SIGINT\n")
    os._exit(128 + number)
