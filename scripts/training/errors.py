"""The errors that a training script reports in one line, without a traceback."""

import signal


class UsageError(Exception):
    """Something the user can mend: an option, a file, a folder. The script exits with 2.

    The message names the value that is wrong and says what to do about it.
    """


class DivergedError(Exception):
    """The loss or a weight is no longer a finite number. The script exits with 1."""


class InterruptedRunError(Exception):
    """The user, or the system, asked the run to stop, and its state has been saved.

    The script exits with 128 + ``number``, that of the signal: 130 of Ctrl-C, 143 of SIGTERM.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number
