"""Progress of long work: one reporter object, shown in terminals and notebooks, silent elsewhere.

Library functions take a `Reporter` and call it; they never print. `reporter()` chooses what fits
the place where the code runs:

>>> from kdlib import progress
>>> report = progress.Reporter()  # silent; progress.reporter() shows bars where somebody looks
>>> with report.bar(total=2, desc="epochs") as bar:
...     bar.update()
...     bar.line("epoch 1: loss 0.3")
"""

import sys
from types import TracebackType
from typing import Self

from tqdm.std import tqdm


class Bar:
    """Progress of one piece of work; this one shows nothing."""

    def update(self, n: int = 1) -> None:
        """Count `n` more finished items."""

    def label(self, text: str) -> None:
        """Name the item that is worked on now, in front of the bar."""

    def line(self, text: str) -> None:
        """Write one line above the bar, e.g. for a finished training run."""

    def close(self) -> None:
        """Take the bar away, or leave it at its last value."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Reporter:
    """Says nothing: for tests, worker processes and output that goes to a file."""

    def bar(self, total: int, desc: str = "", unit: str = "it") -> Bar:
        """Open a bar over `total` items; use it in a `with` statement."""
        return Bar()

    def line(self, text: str) -> None:
        """Write one line."""


class _TqdmBar(Bar):
    def __init__(self, bar: tqdm) -> None:
        self._bar = bar

    def update(self, n: int = 1) -> None:
        self._bar.update(n)

    def label(self, text: str) -> None:
        self._bar.set_description_str(text)

    def line(self, text: str) -> None:
        tqdm.write(text, file=self._bar.fp)

    def close(self) -> None:
        self._bar.close()


class TqdmReporter(Reporter):
    """Bars by tqdm: on standard error in a terminal, as cell output in a notebook."""

    def __init__(self, in_notebook: bool = False) -> None:
        # A cell's standard error is drawn as an error, and a kernel passes every refresh of a bar
        # on as a message: write to standard output there, and seldom.
        self._in_notebook = in_notebook

    def bar(self, total: int, desc: str = "", unit: str = "it") -> Bar:
        """Open a bar over `total` items, none where there are none; use it in a `with` block."""
        if not total:
            return Bar()
        if self._in_notebook:
            bar = tqdm(total=total, desc=desc, unit=unit, file=sys.stdout, ncols=90, mininterval=2)
        else:
            bar = tqdm(total=total, desc=desc, unit=unit, file=sys.stderr, dynamic_ncols=True)
        return _TqdmBar(bar)

    def line(self, text: str) -> None:
        """Write one line above all open bars."""
        tqdm.write(text, file=sys.stdout if self._in_notebook else sys.stderr)


class LineReporter(Reporter):
    """Lines without bars, on standard error: for output that goes to a file."""

    def bar(self, total: int, desc: str = "", unit: str = "it") -> Bar:
        """Open a bar that passes its lines on and draws nothing."""
        return _LineBar()

    def line(self, text: str) -> None:
        """Write one line."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class _LineBar(Bar):
    def line(self, text: str) -> None:
        LineReporter().line(text)


def reporter() -> Reporter:
    """Choose the reporter for this place: bars in a terminal or a notebook, otherwise silent."""
    if _in_kernel():
        return TqdmReporter(in_notebook=True)
    if sys.stderr is not None and sys.stderr.isatty():
        return TqdmReporter()
    return Reporter()


def _in_kernel() -> bool:
    """Tell whether this process is a Jupyter kernel, without importing IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
