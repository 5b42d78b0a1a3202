"""Fixtures for the tests of runs, the command and the package."""

from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
import pytest


@pytest.fixture(scope="session")
def project() -> Path:
    """Root of the checkout."""
    return Path(__file__).parents[2]


@pytest.fixture
def write_notebook(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small notebook into `tmp_path/notebooks`."""

    def write(
        name: str,
        *cells: str,
        parameters: str | None = 'results_dir: str = ""  # where the files go',
        reads: Sequence[str] = (),
        writes: Sequence[str] = (),
        **declared: object,
    ) -> Path:
        code = [nbformat.v4.new_code_cell(source) for source in cells]
        if parameters is not None:
            tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
            code.insert(0, tagged)
        notebook = nbformat.v4.new_notebook(
            cells=code,
            metadata={
                "kdlib": {"reads": list(reads), "writes": list(writes), **declared},
                # installed nowhere: the run must not look for it
                "kernelspec": {"name": "no-such-kernel", "display_name": "none"},
                "language_info": {"name": "python"},
            },
        )
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, path)
        return path

    return write
