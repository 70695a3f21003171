"""Being told to stop: Ctrl-C and SIGTERM are noted, the loop saves at the end of the step and says how to resume."""

import signal
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Interrupts:
    """While entered, notes the first signal in `received`; a second Ctrl-C interrupts at once."""

    def __init__(self):
        self.received: int | None = None

    def __enter__(self) -> "Interrupts":
        self._previous = {signum: signal.signal(signum, self._note) for signum in EXIT_CODES}
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum

    def __exit__(self, *exception) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
