"""The one exception that stands for a user's mistake, and errors in the words of a sentence."""


class UserError(ValueError):
    """Something the user can put right.

    Its message is one sentence that says what is wrong, where, and what to do. The command line
    prints it without a traceback and exits with status 2.
    """


def reason(error: Exception) -> str:
    """What an error says, in a form that fits into a sentence: with its type where it is no user's.

    >>> reason(OSError(28, "No space left on device")), reason(KeyError("x"))
    ('No space left on device', "KeyError: 'x'")
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
