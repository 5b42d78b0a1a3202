"""Progress: bars and lines in terminals and notebooks, nothing elsewhere."""

import os
import re
import subprocess
import sys

import pytest

from kdlib import progress


def work() -> int:
    """Two items behind a bar, with a line for each."""
    for item in progress.bar(range(2), desc="labels", unit="frame"):
        progress.line(f"frame {item} is done")
    return item


@pytest.mark.parametrize("total", [0, 2])
def test_a_bar_over_nothing_is_not_drawn(terminal, total):
    """Work that was done before leaves no empty bars on the screen."""
    with progress.bar(total=total, desc="labels", unit="frame") as bar:
        for _ in range(total):
            bar.update()
    assert ("labels" in terminal()) == (total > 0)


def test_a_terminal_shows_bars_and_lines(terminal):
    """The last state of a bar is full, and lines keep their order and their ends."""
    work()
    shown = terminal()
    lines = [text for text in re.split(r"[\r\n]", shown) if text.startswith("frame")]
    assert lines == ["frame 0 is done", "frame 1 is done"]
    assert "2/2" in shown.rpartition("labels")[2]


def test_of_nested_bars_the_outer_one_is_drawn(terminal):
    """A run that is one of many draws no bar of its own, and the next one after them does."""
    for _ in progress.bar(range(2), desc="models"):
        for _ in progress.bar(range(3), desc="steps"):
            pass
    shown = terminal()
    assert "models" in shown
    assert "steps" not in shown
    for _ in progress.bar(range(3), desc="steps"):
        pass
    assert "steps" in terminal()


def test_a_script_is_silent(capsys):
    """Output that goes to a file holds neither bars nor lines of a library."""
    assert work() == 1
    assert capsys.readouterr() == ("", "")


def test_a_command_writes_lines_into_a_file(capsys):
    """The lines of a command reach standard error, one each, without bars."""
    progress.show_lines()
    work()
    assert capsys.readouterr() == ("", "frame 0 is done\nframe 1 is done\n")


def test_silence_holds_in_a_terminal(terminal):
    """A worker process shares the terminal of its parent and leaves it alone."""
    progress.silence()
    work()
    assert terminal() == ""


def test_a_kernel_writes_to_standard_output(monkeypatch, terminal, capsys):
    """A notebook draws standard error as an error, so bars and lines are output of the cell."""
    monkeypatch.setattr(progress, "_in_kernel", lambda: True)
    work()
    out, err = capsys.readouterr()
    assert "frame 1 is done\n" in out
    assert "2/2" in out
    assert err == ""


_COMMAND = """
import sys
from kdlib import progress
sys.argv += ["\\xfc"] * 2000
with progress.reader_may_leave():
    sys.stdout.write(" ".join(sys.argv[1:]) + "\\n")
"""


def _ended(stdout: object, **environment: str) -> tuple[int, str]:
    """Exit code and standard error of a command that writes 2000 letters."""
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND],
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | environment,
    )
    if process.stdout:
        process.stdout.close()
    return process.wait(), process.communicate()[1]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_may_leave(unbuffered):
    """As in `kdlib info | head`: no traceback, and the exit code of a closed pipe."""
    assert _ended(subprocess.PIPE, PYTHONUNBUFFERED=unbuffered) == (progress.UNREAD, "")


def test_letters_that_the_locale_lacks_are_escaped():
    """A terminal of ASCII ends no command."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert _ended(subprocess.DEVNULL, **ascii_only) == (0, "")


def test_nobody_need_listen_at_all():
    """Streams that are closed from the start, as `>&- 2>&-` does, are no fault."""
    closed = 'exec >&- 2>&-; exec "$0" -c "$1"'
    done = subprocess.run(["sh", "-c", closed, sys.executable, _COMMAND])
    assert done.returncode == 0
