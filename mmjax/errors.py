"""The two exceptions that a user is meant to read."""


class UserError(ValueError):
    """Bad input from outside: a flag, a config key, a file, a checkpoint.

    The message is one sentence that names the thing and the remedy. The command line prints it
    alone, without a traceback, and exits with status 2.
    """


class Preempted(Exception):  # noqa: N818 - it is no error
    """A run was asked to end and has saved. The command line exits with status `STATUS`.

    Launchers take that status for "start the same command again".
    """

    STATUS = 75  # EX_TEMPFAIL of sysexits.h
