"""Errors that a user can act on, and the one by which a run of MD ends."""

#: A run hotter than this (K) has exploded: eight times the temperature of a melt.
MAX_TEMPERATURE = 20000.0


class InputError(ValueError):
    """Input that breaks a rule; the message names the file, the frame and the rule.

    The command line prints the message as one line and ends with exit code 2.
    """


class DynamicsError(RuntimeError):
    """A run that became unphysical: atoms flew apart, collided, or forces are not finite."""
