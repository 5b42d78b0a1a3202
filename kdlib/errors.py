"""Errors that a user can act on."""


class InputError(ValueError):
    """Input that breaks a rule; the message names the file, the frame and the rule.

    The command line prints the message as one line and ends with exit code 2.
    """
