"""The one exception that stands for a user's mistake, errors as sentences, and an exit status."""

from __future__ import annotations

from weathermixer.credentials import without_credentials

STOPPED_EARLY = 75
"""The exit status of a training that a signal stopped after a step, with a checkpoint to resume.

Neither success, which would let a script go on with a model that is half trained, nor a failure;
sendmail's ``EX_TEMPFAIL``, "try again later", in ``sysexits.h``.
"""


class UserError(ValueError):
    """Something the user can put right.

    Its message is one sentence that says what is wrong, where, and what to do, without credentials
    that an address in it may carry. The command line prints it without a traceback and exits with
    status 2.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(without_credentials(sentence))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows, and so a notebook: the sentence, as on the command line."""
        return [f"Error: {self}"]


def reason(error: BaseException) -> str:
    """What an error says, in a form that fits into a sentence: with its type where it is no user's.

    Credentials that an address in it may carry are left out.

    >>> reason(OSError(28, "No space left on device")), reason(KeyError("x"))
    ('No space left on device', "KeyError: 'x'")
    """
    if isinstance(error, OSError):
        said = error.strerror or str(error)
    else:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return without_credentials(said)
