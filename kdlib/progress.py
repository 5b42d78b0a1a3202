"""Progress of long work: bars and lines where somebody is watching, silence elsewhere.

Library functions call :func:`bar` and :func:`line`; they never print.

>>> from kdlib import progress
>>> for epoch in progress.bar(range(2), desc="epochs"):
...     progress.line(f"epoch {epoch} is done")

=====================================  ===============  ===============
Where                                  Bars             Lines
=====================================  ===============  ===============
terminal                               standard error   standard error
Jupyter kernel                         standard output  standard output
a command whose output goes to a file  none             standard error
elsewhere: scripts, tests, workers     none             none
=====================================  ===============  ===============

Who watches is a property of the process, not of a call, so it is a setting of this module, made
once at the start of a process. tqdm locks whatever it writes, so threads may call both functions.
"""

import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from io import TextIOWrapper, UnsupportedOperation
from typing import TextIO

from tqdm.std import tqdm

#: Exit code of a command whose output nobody reads, as shells have it for a closed pipe.
UNREAD = 141
_mode = "automatic"
_outermost: weakref.ref[tqdm] | None = None


def show_lines() -> None:
    """Write lines even where no bar can be drawn: for commands whose output goes to a file."""
    global _mode
    _mode = "lines"


def silence() -> None:
    """Show nothing in this process, wherever its standard error goes: for worker processes."""
    global _mode
    _mode = "silent"


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Let a command end quietly where nobody reads on, as in ``kdlib info | head``.

    It exits with :data:`UNREAD`. Both streams may also be closed from the start, and letters that
    the locale lacks are escaped.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - to the end
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(UNREAD) from None
        raise


def _discard(stream: TextIO) -> None:
    """Drop what could not be written: Python would try again, and complain, when it ends."""
    with suppress(UnsupportedOperation):  # of a stream that is no file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def bar(
    iterable: Iterable | None = None, *, total: int | None = None, desc: str = "", unit: str = "it"
) -> tqdm:
    """Return a bar: iterate over it, or use it in a ``with`` statement and call its ``update``.

    Nothing is drawn if there is nothing to do, nor inside another bar, where it would flicker.
    ``total`` is by default the length of ``iterable``; ``desc`` and ``unit`` name the work and one
    item.
    """
    global _outermost
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    screen = _screen()
    inside = _outermost() if _outermost else None
    if screen is None or total == 0 or (inside is not None and not inside.disable):
        return tqdm(iterable, total=total, desc=desc, unit=unit, disable=True)
    # A kernel sends every refresh of a bar as a message: refresh seldom.
    style = {"ncols": 90, "mininterval": 2} if _in_kernel() else {"dynamic_ncols": True}
    drawn = tqdm(iterable, total=total, desc=desc, unit=unit, file=screen, **style)
    _outermost = weakref.ref(drawn)
    return drawn


def line(text: str) -> None:
    """Write one line, above the open bar where there is one."""
    stream = _screen() or (sys.stderr if _mode == "lines" else None)
    if stream is not None:
        tqdm.write(text, file=stream)


def is_shown() -> bool:
    """Whether bars are drawn here, for libraries that draw their own."""
    return _screen() is not None


def _screen() -> TextIO | None:
    """Stream that bars are drawn on; None where nobody is watching."""
    if _mode == "silent":
        return None
    if _in_kernel():
        return sys.stdout  # a cell's standard error is drawn as an error
    return sys.stderr if _in_terminal() else None


def _in_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _in_kernel() -> bool:
    """Tell whether this process is a Jupyter kernel, without importing IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
