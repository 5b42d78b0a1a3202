"""Synthetic results with planted effects."""

from synthetic import drawn_from, planted

__all__ = ["drawn_from", "planted"]
