"""The errors that are shown without a traceback: mistakes that the user can correct, and what a network rules out."""


class UserError(Exception):
    """A mistake in the user's configuration or files.

    Its message names the file or key, the value, and what to do; it is shown without a traceback.
    """

    def __str__(self) -> str:
        """Return the message with the bytes of names that are no UTF-8 as \\x.., which every terminal can show."""
        return super().__str__().encode(errors="surrogateescape").decode(errors="backslashreplace")


class RefusedError(UserError):
    """A scope, recovery or mode that is impossible for this network, though all else of the study may be possible.

    Its message says what of the network rules it out. The job writes it in place of what it would have made
    (elagage.refusals), so that the rest of the study goes on.
    """
