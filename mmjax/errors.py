"""The two exceptions that a user is meant to read."""


class UserError(ValueError):
    """Bad input from outside: a flag, a config key, a file, a checkpoint.

    The message is one sentence that names the thing and the remedy. The command line prints it
    alone, without a traceback, and exits with status 2.
    """


class Preempted(Exception):  # noqa: N818 - it is no error
    """A run was asked to end and has saved. The command line exits with its `status`.

    Launchers take `STATUS` for "start the same command again"; a run that a person ended by Ctrl-C
    has `INTERRUPTED`.
    """

    STATUS = 75  # EX_TEMPFAIL of sysexits.h
    INTERRUPTED = 130  # as shells say of a command that SIGINT ended

    def __init__(self, message: str, status: int = STATUS):
        super().__init__(message)
        self.status = status
