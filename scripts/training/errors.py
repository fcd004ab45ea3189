"""The errors that a training script reports in one line, without a traceback."""


class UsageError(Exception):
    """Something the user can mend: an option, a file, a folder. The script exits with 2.

    The message names the value that is wrong and says what to do about it.
    """


class DivergedError(Exception):
    """The loss or a weight is no longer a finite number. The script exits with 1."""


class InterruptedRunError(Exception):
    """The user asked the run to stop, and its state has been saved. The script exits with 130."""
