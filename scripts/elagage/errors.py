"""The error for mistakes that the user can correct."""


class UserError(Exception):
    """A mistake in the user's configuration or files.

    Its message names the file or key, the value, and what to do; it is shown without a traceback.
    """

    def __str__(self) -> str:
        """Return the message with the bytes of names that are no UTF-8 as \\x.., which every terminal can show."""
        return super().__str__().encode(errors="surrogateescape").decode(errors="backslashreplace")
