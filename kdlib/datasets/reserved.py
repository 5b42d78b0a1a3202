"""Information of frames (``Atoms.info``) under names that this package reads.

A file may hold anything in a frame's information. Where one of these names stands for something
else, the frame is refused, so that no identity, part or weight is made of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np
from ase import Atoms

from kdlib.errors import InputError

#: Parts of a split; a dataset may set frames apart for two more tests, of ``compressed`` cells and
#: of ``transfer`` to larger ones.
PARTS = ("train", "valid", "test", "compressed", "transfer")
#: Key of ``Atoms.info`` with a frame's weight in the loss.
WEIGHT = "loss_weight"
#: Smallest and largest weight but 0: single precision makes 0 and infinity of others.
LEAST, MOST = 1e-12, 1e12


@dataclass(frozen=True)
class _Name:
    """A reserved name: what its value must be, and what it is for."""

    allowed: Callable[[object], bool]
    must_be: str
    meaning: str


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _is_word(value: object) -> bool:
    return isinstance(value, str) or _is_number(value)


def _is_weight(value: object) -> bool:
    return _is_number(value) and (value == 0 or LEAST <= value <= MOST)


def _is_part(value: object) -> bool:
    return isinstance(value, str) and value in ("", *PARTS)


_RESERVED = {
    "frame": _Name(_is_word, "text or a number", "the identity of the frame"),
    "part": _Name(_is_part, f"one of {', '.join(PARTS)}", "the part of the split"),
    WEIGHT: _Name(
        _is_weight, f"0 or a number between {LEAST:g} and {MOST:g}", "the weight of the frame"
    ),
    "phase": _Name(_is_word, "text or a number", "the phase in tables and figures"),
    "config_type": _Name(_is_word, "text or a number", "the phase in tables and figures"),
    "temperature_K": _Name(_is_number, "a number", "the temperature in figures"),
}


def broken_information(info: Mapping[str, object]) -> str | None:
    """Rule that a frame's information breaks, as the end of a sentence; None if there is none."""
    for name, about in _RESERVED.items():
        value = info.get(name)
        if value is not None and not about.allowed(value):
            plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
            shown = " ".join(repr(plain).split())[:40]
            return (
                f"its {name!r} is {shown}, must be {about.must_be}, since this package takes it "
                f"for {about.meaning}; rename it"
            )
    return None


def loss_weight(atoms: Atoms) -> float | None:
    """Weight of a frame in the loss; None if it has none.

    Raises
    ------
    InputError
        It is neither 0 nor a number between :data:`LEAST` and :data:`MOST`.
    """
    value = atoms.info.get(WEIGHT)
    if value is not None and not _is_weight(value):
        raise InputError(broken_information({WEIGHT: value}))
    return None if value is None else float(value)
