"""The one exception for mistakes that the user can mend."""


class UserError(ValueError):
    """A bad value, with its constraint and the remedy in the message.

    The command line prints the message alone and exits with status 2; a traceback would only hide it.
    Raise it before work starts.
    """
