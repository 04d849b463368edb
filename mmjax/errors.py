"""The one exception that a user is meant to read."""


class UserError(ValueError):
    """Bad input from outside: a flag, a config key, a file, a checkpoint.

    The message is one sentence that names the thing and the remedy. The command line prints it
    alone, without a traceback, and exits with status 2.
    """
