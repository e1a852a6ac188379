"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """Something the user can put right.

    Its message is one sentence that says what is wrong, where, and what to do. The command line
    prints it without a traceback and exits with status 2.
    """
