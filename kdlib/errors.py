"""Errors that a user can act on, work that broke off, and how a run of MD ends."""

#: A run hotter than this (K) has exploded: eight times the temperature of a melt.
MAX_TEMPERATURE = 20000.0


class InputError(ValueError):
    """Input that breaks a rule; the message names the file, the frame and the rule.

    The command line prints the message as one line and ends with exit code 2.
    """


class Unfinished(RuntimeError):
    """Work that broke off; the message says why, and repeating the command resumes it.

    The command line prints the message as one line and ends with exit code 1.
    """


class WorkerKilled(Unfinished):
    """A process that computes was killed, as the system does when memory runs out."""


class DynamicsError(RuntimeError):
    """A run that became unphysical: atoms flew apart, collided, or forces are not finite."""
