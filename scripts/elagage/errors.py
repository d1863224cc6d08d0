"""The error for mistakes that the user can correct."""


class UserError(Exception):
    """A mistake in the user's configuration or files.

    Its message names the file or key, the value, and what to do; it is shown without a traceback.
    """
