"""The one kind of error that is the user's to mend."""


class UserError(Exception):
    """A mistake in the user's configuration or files.

    Its message names the file or key, the value, and what to do; it is shown without a traceback.
    """
