"""The one exception that stands for a user's mistake, errors as sentences, and an exit status."""

STOPPED_EARLY = 75
"""The exit status of a training that a signal stopped after a step, with a checkpoint to resume.

Neither success, which would let a script go on with a model that is half trained, nor a failure;
sendmail's ``EX_TEMPFAIL``, "try again later", in ``sysexits.h``.
"""


class UserError(ValueError):
    """Something the user can put right.

    Its message is one sentence that says what is wrong, where, and what to do. The command line
    prints it without a traceback and exits with status 2.
    """


def reason(error: BaseException) -> str:
    """What an error says, in a form that fits into a sentence: with its type where it is no user's.

    >>> reason(OSError(28, "No space left on device")), reason(KeyError("x"))
    ('No space left on device', "KeyError: 'x'")
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
