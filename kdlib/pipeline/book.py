"""The reading copy of a run: its executed notebooks as web pages that need no network.

nbconvert turns cells into HTML, through the template and the style sheet in `pages/`. The pages
have no scripts: formulas are drawn here, links between notebooks become links between pages, and
pictures are files beside them.
"""

import base64
import html
import io
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from jinja2 import pass_context
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import Preprocessor
from pygments.formatters import HtmlFormatter

from kdlib import files, results
from kdlib.errors import InputError
from kdlib.pipeline import notebook

INDEX = "index"
"""Name of the notebook that becomes the first page."""
STYLE = "book.css"
"""File of the style sheet, by which a folder is known to hold a book."""
LONGEST_LOG = 12
"""Lines of a log that a page shows; longer ones are folded."""

_PAGES = Path(__file__).parent / "pages"
_POINTS = 12.0  # size of a formula's letters when it is drawn; the page scales it to its own
_BAR = re.compile(r"^.*\d+%\|.*\| *[\d.]+k?/[\d.]+k? \[.*$\n?", re.MULTILINE)  # as tqdm draws it


def write(folder: Path, out: Path) -> list[Path]:
    """Write a page for each executed notebook of a results folder; return the paths of the pages.

    Parameters
    ----------
    folder
        Results folder of a run.
    out
        Folder of the book. One that is there is replaced as a whole.

    Raises
    ------
    InputError
        There is no executed index, ``out`` holds something other than a book, or another process
        writes beside it.
    """
    notebooks = _executed(folder / "notebooks")
    with files.locked(out.parent), files.writing(out):
        _replace(notebooks, folder, out)
    return [out / f"{name}.html" for name in notebooks]


def _replace(notebooks: dict[str, nbformat.NotebookNode], folder: Path, out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / STYLE).is_file():
        raise InputError(f"{out}: holds files that are no book; name another folder")
    with tempfile.TemporaryDirectory(prefix=".book", dir=out.parent) as parent:
        stage = Path(parent) / out.name
        stage.mkdir()
        titles = {name: _title(cells, name) for name, cells in notebooks.items()}
        shared = {"titles": titles, "origin": _origin(folder), "longest_log": LONGEST_LOG}
        for name, cells in notebooks.items():
            try:
                _write_page(name, cells, shared, folder, stage)
            except InputError as error:
                raise InputError(f"{folder / 'notebooks' / name}.ipynb: {error}") from error
        code = HtmlFormatter(style="friendly", nobackground=True).get_style_defs(".highlight")
        style = (_PAGES / STYLE).read_text(encoding="utf-8") + f"{code}\n"
        (stage / STYLE).write_text(style, encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        os.replace(stage, out)


def _executed(folder: Path) -> dict[str, nbformat.NotebookNode]:
    """Executed copies of a run by name, the index first; failed ones are left out."""
    try:
        names = sorted(path.stem for path in folder.glob("[!.]*.ipynb") if "." not in path.stem)
    except OSError as error:  # where we may not look
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
    if INDEX not in names:
        raise InputError(f"{folder / INDEX}.ipynb: no such file; `kdlib run` makes it")
    names.sort(key=lambda name: name != INDEX)
    return {name: notebook.opened(folder / f"{name}.ipynb") for name in names}


def _title(cells: nbformat.NotebookNode, name: str) -> str:
    """First heading of a notebook, or else its name."""
    texts = (cell.source for cell in cells.cells if cell.cell_type == "markdown")
    headings = (line[2:] for text in texts for line in text.splitlines() if line.startswith("# "))
    return next(headings, name)


def _origin(folder: Path) -> str:
    """What the files that the index reads say about the run."""
    reads = notebook.read(folder / "notebooks" / f"{INDEX}.ipynb").reads
    told = []
    for attrs in (results.load(folder / name).attrs for name in reads):
        told.append(
            f"Profile {attrs.get('profile', 'unknown')}, kdlib {attrs['kdlib_version']}, "
            f"commit {attrs['git_commit'][:10]}, {attrs['created'][:10]}, {attrs['cpu_model']}"
        )
    return "; ".join(told)


def _write_page(
    name: str, cells: nbformat.NotebookNode, shared: dict[str, Any], folder: Path, stage: Path
) -> None:
    """Write one page and the pictures of its outputs."""
    resources = {"unique_key": name, "output_files_dir": "images", **shared}
    page, resources = _Page().from_notebook_node(cells, resources)
    soup = BeautifulSoup(page, features="html.parser")
    for tag in soup.select("main a[href]"):
        _lead(tag, list(shared["titles"]), folder, stage)
    (stage / f"{name}.html").write_text(str(soup), encoding="utf-8")
    for path, content in resources["outputs"].items():
        files.made((stage / path).parent)
        (stage / path).write_bytes(content)


def _lead(link: Any, pages: list[str], folder: Path, stage: Path) -> None:
    """Let a link between notebooks lead to a page, and one to a result to a copy of the file."""
    target, mark, place = link["href"].partition("#")
    path = Path(target)
    source = folder / "notebooks" / target
    if not target or "://" in target:
        return
    if path.suffix == ".ipynb" and path.stem in pages:
        link["href"] = f"{path.stem}.html{mark}{place}"
    elif source.is_file() and source.resolve().is_relative_to(folder.resolve()):
        copy = Path(source.parent.name, source.name)
        files.made(stage / copy.parent)
        shutil.copyfile(source, stage / copy)
        link["href"] = f"{copy}{mark}{place}"
    else:  # it would lead nowhere
        link.unwrap()


class _Page(HTMLExporter):
    """Pages from the template beside this module, with pictures as files."""

    def __init__(self) -> None:
        super().__init__(
            template_name=_PAGES.name,
            extra_template_basedirs=[str(_PAGES.parent)],
            preprocessors=[_Readable],
        )

    @property
    def default_config(self) -> Any:
        config = super().default_config
        config.CoalesceStreamsPreprocessor.enabled = True
        config.ExtractOutputPreprocessor.enabled = True
        return config

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:  # noqa: ARG002
        """Turn Markdown into HTML, formulas included."""
        return MarkdownWithMath(renderer=_Renderer(escape=False)).render(source)


class _Renderer(IPythonRenderer):
    """Draws the formulas of a text."""

    def block_math(self, body: str) -> str:
        return formula(body, "display")

    def inline_math(self, body: str) -> str:
        return formula(body, "inline")


class _Readable(Preprocessor):
    """Leaves out what only matters while a notebook runs, and describes its pictures."""

    def preprocess(self, nb: nbformat.NotebookNode, resources: Any) -> tuple[Any, Any]:
        """Clean the outputs of all cells, and name pictures by the heading above them."""
        home = nb.metadata.get("papermill", {}).get("parameters", {}).get("results_dir", "")
        heading = ""
        for cell in nb.cells:
            for line in cell.source.splitlines() if cell.cell_type == "markdown" else ():
                heading = line.lstrip("# ") if line.startswith("#") else heading
            if cell.cell_type == "code":
                cell.metadata["alt"] = f"Figure: {heading}"
                cell.source = _anywhere(cell.source, home)
                cell.outputs = [o for o in cell.outputs if self._is_kept(o, home)]
        return nb, resources

    def _is_kept(self, output: nbformat.NotebookNode, home: str) -> bool:
        """Clean a text in place; False if nothing of it is left."""
        if output.output_type != "stream":
            return True
        output.text = _anywhere(_BAR.sub("", output.text), home)
        return bool(output.text.strip())


def _anywhere(text: str, home: str) -> str:
    """Text without the place of the results and of the package on the machine of the run."""
    if home:
        text = text.replace(home, "/".join(Path(home).parts[-2:]))
    return re.sub(r"(?<![\w.])/[^\s'\"]*/(?=kdlib/)", "", text)


def formula(tex: str, kind: str = "inline") -> str:
    """Draw a formula in TeX as an SVG inside an HTML element, on the base line of the text.

    `kind` is ``inline`` or ``display``. A formula that matplotlib cannot draw is an `InputError`.
    """
    tex = " ".join(tex.split())
    fractions = tex.replace(r"\frac", r"\dfrac") if kind == "display" else tex
    text, font = f"${fractions}$", FontProperties(size=_POINTS, math_fontfamily="stix")
    drawn = io.BytesIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "kdlib"}):
        try:
            width, height, depth, *_ = MathTextParser("path").parse(text, dpi=72, prop=font)
        except ValueError as error:
            raise InputError(f"matplotlib cannot draw the formula {tex}") from error
        figure = Figure(figsize=(width / 72, height / 72))
        figure.text(0, depth / height, text, fontproperties=font)
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    source = base64.b64encode(drawn.getvalue()).decode()
    return (
        f'<img class="formula {kind}" alt="{html.escape(tex)}" '
        f'style="height: {height / _POINTS:.3f}em; vertical-align: {-depth / _POINTS:.3f}em" '
        f'src="data:image/svg+xml;base64,{source}">'
    )
