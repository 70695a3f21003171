"""What a user can get wrong, told apart from what we got wrong."""

import re


class UserError(ValueError):
    """A mistake in a config, path, file or label: the doors print its one line and exit with status 2.

    The message names the thing and the mend, on one line.
    """


class Interrupted(Exception):
    """A run that was told to stop, and has saved: the doors print its line and exit with `exit_code`."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


SYSTEM = re.compile(
    "No space left on device|Disk quota exceeded|Permission denied|Read-only file system|File too large|"
    "Input/output error"
)


def of_the_system(error: BaseException) -> str | None:
    """What the system refused, where a library's own account of it says so somewhere."""
    return found.group() if (found := SYSTEM.search(str(error))) else None


def one_line(error: BaseException) -> str:
    """What went wrong, on one line; of the system's errors what it was and with which file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
