"""The reading copy: pages that need no network, whose links and pictures are there."""

import base64
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import numpy as np
import pytest
import xarray as xr
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from webpages import faults

from kdlib import files, results
from kdlib.__main__ import main
from kdlib.errors import InputError
from kdlib.pipeline import book

PROJECT = Path(__file__).parents[2]
LARGEST = 15e6
"""Bytes of a book that a repository may hold."""
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYPj/HwADAgH/p8S3WAAAAABJRU5ErkJggg=="
)
"""A PNG of one pixel."""
PLACE = "/somewhere/of mine/results/quick"
"""Results folder on the machine of the run."""


def _executed(path: Path, cells: list, **declared: list) -> None:
    metadata = {"kdlib": declared, "papermill": {"parameters": {"results_dir": PLACE}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)


def _printed(text: str) -> nbformat.NotebookNode:
    return new_output("stream", name="stdout", text=text)


def small_run(folder: Path) -> Path:
    """A results folder of two executed notebooks and a figure."""
    ds = xr.Dataset({"n": ("k", np.arange(2), {"units": "1", "long_name": "number"})})
    results.save(ds, folder / "claims.nc", kind="series", profile="quick")
    (folder / "figures").mkdir()
    (folder / "figures" / "data.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    links = "[the figure](../figures/data.svg), [its notebook](01_data.ipynb#The-data)"
    table = new_output("execute_result", data={"text/markdown": links, "text/plain": "..."})
    index = [
        new_markdown_cell("# Index\n\n[next](01_data.ipynb), [nowhere](02_gone.ipynb)"),
        new_code_cell("Markdown(...)", outputs=[table]),
    ]
    picture = {"image/png": base64.b64encode(PICTURE).decode(), "text/plain": "<Figure>"}
    bar = "steps:  50%|█████     | 1/2 [00:01<00:01,  1.00s/step]"
    lines = "".join(f"step {k}\n" for k in range(book.LONGEST_LOG + 1))
    warning = "/elsewhere/kdlib/hipnn/calculator.py:1: UnseenWarning: crowded\n"
    data = [
        new_markdown_cell(
            "# The data\n\n[index](index.ipynb), [paper](https://doi.org/10.1039/D5DD00085H)\n\n"
            r"$$L = \sum_i \frac{a_i}{b} < 1$$ where $a_i$ is *small*."
        ),
        new_code_cell(f"results_dir = '{PLACE}'", metadata={"tags": ["injected-parameters"]}),
        new_code_cell("run()", outputs=[_printed(f"\r{bar}"), _printed(f"\r{bar}\n{lines}")]),
        new_code_cell("wait()", outputs=[_printed(f"{bar}\n")]),
        new_markdown_cell("## Coverage"),
        new_code_cell("figure", outputs=[new_output("display_data", data=picture)]),
        new_code_cell(
            "print(told)", outputs=[_printed(f"{warning}{PLACE}/data.nc holds 3 frames.")]
        ),
    ]
    _executed(folder / "notebooks" / "index.ipynb", index, reads=["claims.nc"])
    _executed(folder / "notebooks" / "01_data.ipynb", data)
    _executed(folder / "notebooks" / "02_gone.failed.ipynb", data)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def pages(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "docs"
    assert [path.stem for path in book.write(run, out)] == ["index", "01_data"]
    return out


def books(small: Path) -> list[Path]:
    """The small book, and the one of this checkout if it has one."""
    return [small, *(path.parent for path in (PROJECT / "docs").glob(book.STYLE))]


def test_links_and_pictures_are_there_and_nothing_is_loaded_from_elsewhere(pages: Path) -> None:
    """A page needs its folder and no network: no script, no dead link, no missing picture."""
    for folder in books(pages):
        assert faults(folder) == []


def test_the_size_allows_to_commit_it(pages: Path) -> None:
    """The style is shared and pictures are files: pages are small, and so is the whole."""
    for folder in books(pages):
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < LARGEST
    assert all(path.stat().st_size < 3e4 for path in pages.glob("*.html"))


def test_links_between_notebooks_lead_to_pages_and_to_figures(pages: Path) -> None:
    """Also those in outputs; a link to what the run did not make is plain text."""
    soup = BeautifulSoup((pages / "index.html").read_text(), "html.parser")
    links = {tag.text.strip(): tag["href"] for tag in soup.main("a")}
    assert links["next"] == "01_data.html"
    assert links["its notebook"] == "01_data.html#The-data"
    assert links["the figure"] == "figures/data.svg"
    assert "nowhere" in soup.main.text
    assert "nowhere" not in links
    assert (pages / "figures" / "data.svg").read_text().startswith("<svg")
    assert [tag["href"] for tag in soup.nav("a")] == ["index.html", "01_data.html"]


def test_pictures_are_files_with_a_description(pages: Path) -> None:
    """The picture of a cell is the one of the notebook, described by the heading above it."""
    soup = BeautifulSoup((pages / "01_data.html").read_text(), "html.parser")
    (tag,) = soup.select("img:not(.formula)")
    assert tag["alt"] == "Figure: Coverage"
    assert (pages / tag["src"]).read_bytes() == PICTURE


def test_formulas_are_drawn(pages: Path) -> None:
    """A formula is a picture with its TeX as description, and no TeX is left in the text."""
    soup = BeautifulSoup((pages / "01_data.html").read_text(), "html.parser")
    display, inline = soup.select("img.formula")
    assert display["alt"] == r"L = \sum_i \frac{a_i}{b} < 1"
    assert inline["alt"] == "a_i"
    assert all(base64.b64decode(tag["src"].partition(",")[2]).startswith(b"<?xml") for tag in
               (display, inline))  # fmt: skip
    assert "$" not in soup.main.text
    assert book.formula("a_i") == book.formula(" a_i\n")


def test_a_formula_that_cannot_be_drawn_is_named() -> None:
    """Matplotlib knows most of TeX, and what it does not know is an error of the user."""
    with pytest.raises(InputError, match=r"cannot draw the formula a \\nonsense b"):
        book.formula(r"a \nonsense b")


def test_logs_are_cleaned_and_places_on_the_machine_left_out(pages: Path) -> None:
    """No progress bars, a long log folded, parameters folded, and no path of whoever ran it."""
    text = (pages / "01_data.html").read_text()
    soup = BeautifulSoup(text, "html.parser")
    folded = {tag.summary.text: tag.pre.text for tag in soup("details")}
    assert folded.keys() == {"Parameters of this run", f"Log, {book.LONGEST_LOG + 1} lines"}
    assert "%|" not in text
    assert "/somewhere" not in text
    assert "/home" not in text
    assert "kdlib/hipnn/calculator.py:1: UnseenWarning" in text
    assert "results/quick/data.nc holds 3 frames." in soup.main("pre")[-1].text


def test_a_page_says_where_its_results_come_from(pages: Path) -> None:
    """Profile, version and processor, from the file that the index reads."""
    soup = BeautifulSoup((pages / "index.html").read_text(), "html.parser")
    assert soup.footer.text.startswith("Profile quick, kdlib ")


def test_a_book_is_replaced_and_nothing_else_is(run: Path, tmp_path: Path) -> None:
    """Pages of an earlier book disappear; a folder with other files is refused and kept."""
    out = tmp_path / "docs"
    out.mkdir()
    (out / "thesis.txt").write_text("all my work")
    with pytest.raises(InputError, match="docs: holds files that are no book"):
        book.write(run, out)
    assert (out / "thesis.txt").read_text() == "all my work"
    (out / "thesis.txt").rename(out / book.STYLE)
    (out / "99_old.html").write_text("old")
    assert main(["book", "--results", str(run), "--out", str(out)]) == 0
    assert not (out / "99_old.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


def test_without_an_index_there_is_no_book(run: Path, tmp_path: Path) -> None:
    """The error names the notebook that is missing and the command that makes it."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "notebooks" / "index.ipynb").unlink()
    with pytest.raises(InputError, match=r"index.ipynb: no such file; `kdlib run` makes it"):
        book.write(tmp_path / "run", tmp_path / "docs")


@pytest.mark.parametrize("place", ["file", "file/docs", "y" * 300])
def test_a_place_that_cannot_be_written_is_one_sentence(
    run: Path, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Path and reason in one line, code 2, and nothing is left behind."""
    (tmp_path / "file").touch()
    assert main(["book", "--results", str(run), "--out", str(tmp_path / place)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"kdlib: {tmp_path / 'file' if 'file' in place else tmp_path / place}")
    assert "cannot be written: " in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_results_that_cannot_be_looked_at_are_one_sentence(tmp_path: Path) -> None:
    """A folder without the right to enter it, say, or a name that no file system takes."""
    with pytest.raises(InputError, match="notebooks: cannot be read: File name too long"):
        book.write(tmp_path / ("y" * 300), tmp_path / "docs")


def test_two_books_at_once_are_not_written_in_one_place(run: Path, tmp_path: Path) -> None:
    """The second of two commands is refused while the first one replaces the folder."""
    lock = files.locked(tmp_path)
    other = threading.Thread(target=lock.__enter__)
    other.start()
    other.join()
    with pytest.raises(InputError, match="another command is writing here"):
        book.write(run, tmp_path / "docs")
    lock.__exit__(None, None, None)
    assert book.write(run, tmp_path / "docs")


class _Served(SimpleHTTPRequestHandler):
    """Serves a folder and remembers what it did not have."""

    missing: list[str] = []

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def send_error(self, code: int, *details: object) -> None:
        """Remember the path, as well."""
        self.missing.append(f"{code} {self.path}")
        super().send_error(code, *details)


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Address of a served folder, and the list of requests that failed."""
    _Served.missing = []
    handler = partial(_Served, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", _Served.missing
        server.shutdown()
        thread.join()


READER = """<!DOCTYPE html><link rel="icon" href="data:,"><pre></pre><script>
async function read(page) {
  const frame = document.createElement("iframe");
  const loaded = new Promise(done => frame.onload = done);
  frame.width = 1200;  // wide enough for the list of pages beside the text
  frame.src = page;
  document.body.append(frame);
  await loaded;
  const inside = frame.contentDocument;
  const said = [...inside.images].filter(i => !i.naturalWidth).map(i => page + ": " + i.src);
  for (const link of inside.links) {
    if (link.origin != location.origin) continue;
    const answer = await fetch(link.href);
    if (!answer.ok) said.push(page + ": " + link.href);
  }
  if (getComputedStyle(inside.body).display != "grid") said.push(page + ": without its style");
  return said;
}
Promise.all(PAGES.map(read)).then(said =>
  document.querySelector("pre").textContent = "read " + PAGES.length + ": " + said.flat().join());
</script>"""


@pytest.mark.slow
def test_a_browser_shows_it_without_an_error(pages: Path, tmp_path: Path) -> None:
    """Chromium loads every page, picture and link from the folder alone; its console is empty."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium or Chrome here")
    for number, folder in enumerate(books(pages)):
        copy = Path(shutil.copytree(folder, tmp_path / str(number)))
        names = sorted(path.name for path in copy.glob("*.html"))
        (copy / "reader.html").write_text(READER.replace("PAGES", str(names)))
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        options += ["--enable-logging=stderr", "--virtual-time-budget=20000"]
        options += ["--window-size=1200,900"]
        with served(copy) as (address, missing):
            done = subprocess.run(
                [browser, *options, "--dump-dom", f"{address}/reader.html"],
                capture_output=True, text=True, encoding="utf-8", timeout=120,
            )  # fmt: skip
        assert f"<pre>read {len(names)}: </pre>" in done.stdout
        assert ":CONSOLE" not in done.stderr
        assert missing == []
