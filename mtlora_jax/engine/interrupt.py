"""Being told to stop: signals are noted, the loop saves at the end of the step and says how to resume."""

import signal
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C; a scheduler; a terminal that closes; a scheduler that warns of the end of the time it has given."""
EXIT_CODES = {signum: 128 + signum for signum in STOPS}


class Interrupts:
    """While entered, notes the first signal in `received`; a second Ctrl-C interrupts at once."""

    def __init__(self):
        self.received: int | None = None

    def __enter__(self) -> "Interrupts":
        # nohup has the terminal's signal ignored: so it stays.
        noted = [signum for signum in STOPS if signal.getsignal(signum) is not signal.SIG_IGN]
        self._previous = {signum: signal.signal(signum, self._note) for signum in noted}
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum

    def __exit__(self, *exception) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
