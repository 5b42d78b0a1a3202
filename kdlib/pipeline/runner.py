"""Runs the notebooks of a profile in order, and skips those whose inputs have not changed.

Everything goes to one results folder: the files that the notebooks write, executed copies in
`notebooks/`, kernel output in `logs/`. Beside each copy, a JSON record holds hashes of what the
step depends on (code cells, parameters, files read, kdlib modules imported) and of what it wrote; a
step is skipped while its record holds. The record is written last, so a run that is killed at any
moment repeats the step that it was in.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm.std import tqdm

import kdlib
from kdlib import files, progress
from kdlib.errors import InputError, Unfinished, WorkerKilled
from kdlib.pipeline import notebook
from kdlib.pipeline.notebook import Step
from kdlib.pipeline.profile import Profile
from kdlib.results import hashes, sources

NOT_IN_KEY = frozenset({"results_dir", "workers"})
"""Parameters that decide where and with how many processes, but not what is computed."""


class StepFailed(Unfinished):
    """A notebook stopped with an error; the message names the copy that holds its traceback."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of one step."""

    name: str
    skipped: bool
    seconds: float
    reason: str
    """Why it ran, e.g. `code cells changed`; empty when it was skipped."""


def notebooks_folder() -> Path:
    """Folder of the notebooks, in the checkout or inside the package."""
    package = Path(kdlib.__file__).parent
    checkout = package.parent
    return (checkout if (checkout / "pyproject.toml").is_file() else package) / "notebooks"


def run(
    profile: Profile,
    results: Path,
    notebooks: Path | None = None,
    only: str = "",
    force: bool = False,
    workers: int | None = None,
) -> list[Outcome]:
    """Execute the notebooks of a profile that are not up to date.

    Parameters
    ----------
    results
        Folder for all files; created if missing.
    notebooks
        Folder of the notebooks, by default those of this package.
    only
        Run only notebooks whose names start with this, e.g. `05`; their inputs must exist.
    force
        Also run what is up to date.
    workers
        Number of processes of notebooks that declare a parameter `workers`.
    """
    ordered = notebook.discover(notebooks or notebooks_folder())
    profile.validate(ordered)
    chosen = _choose(ordered, only, results)
    outcomes = []
    with (
        files.locked(results),
        progress.bar(total=len(chosen), desc="notebooks", unit="nb") as bar,
    ):
        _tidy(results)
        for step in chosen:
            bar.set_description_str(step.name)
            outcome = _run_step(step, _parameters(profile, step, results, workers), results, force)
            _report(bar, outcome)
            outcomes.append(outcome)
    return outcomes


def _tidy(results: Path) -> None:
    """Make the folders of a run, and remove what a killed one has left half-written."""
    for name in ("notebooks", "logs"):
        files.made(results / name)
    files.tidied(results)
    with files.writing(results):
        for stale in (results / "notebooks").glob(".*.partial.ipynb"):
            stale.unlink()


def _choose(ordered: list[Step], only: str, results: Path) -> list[Step]:
    """Select steps by the beginning of their name; their inputs must exist or be made first."""
    chosen = [step for step in ordered if step.name.startswith(only)]
    if not chosen:
        known = ", ".join(step.name for step in ordered)
        raise InputError(f"no notebook starts with '{only}' (there are: {known})")
    made = notebook.makers(ordered)
    coming = {name for step in chosen for name in step.writes}
    for step in chosen:
        for name in step.reads:
            if name not in coming and not os.path.isfile(results / name):
                raise InputError(
                    f"{step.name} reads {results / name}, which is missing: "
                    f"run notebook {made[name].name} first"
                )
    return chosen


def _parameters(profile: Profile, step: Step, results: Path, workers: int | None) -> dict[str, Any]:
    """Parameters of one notebook: from the profile and from the command."""
    command = {"profile": profile.name, "results_dir": str(results.resolve())}
    if workers is not None:
        command["workers"] = workers
    own = {name: value for name, value in command.items() if name in step.parameters}
    return profile.parameters(step) | own


def dependencies(step: Step, parameters: Mapping[str, Any], results: Path) -> dict[str, Any]:
    """Everything that a step's result depends on, as hashes for JSON."""
    values = {name: value for name, value in parameters.items() if name not in NOT_IN_KEY}
    texts = set(_texts(values))
    contents = {str(path): hashes.file(path) for text in texts for path in _files(text)}
    contents |= hashes.packaged_data(texts | sources.text_constants("\n".join(step.cells)))
    contents |= {name: hashes.file(results / name) for name in step.reads}
    return {
        "code cells": hashes.digest(*step.cells),
        "parameters": values,
        "files": contents,
        "modules": hashes.modules(step.cells),
    }


def _texts(value: object) -> Iterator[str]:
    """Texts in a parameter, also inside lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_texts, value.values()))
    elif isinstance(value, (list, tuple)):
        yield from chain.from_iterable(map(_texts, value))


def _files(text: str) -> list[Path]:
    """Files that a text names, alone or after the kind of a teacher; of a model, its folder's."""
    _, _, rest = text.partition(":")
    if rest and os.path.isdir(folder := files.named(rest)):
        return sorted(path for path in folder.iterdir() if path.is_file())
    return files.matching(text) or files.matching(rest)


def key(parts: Mapping[str, Any]) -> str:
    """One hash of all dependencies of a step."""
    return hashes.digest(json.dumps(parts, sort_keys=True))


def _run_step(step: Step, parameters: dict[str, Any], results: Path, force: bool) -> Outcome:
    """Execute one notebook and write its record, unless its record holds."""
    record_path = results / "notebooks" / f"{step.name}.json"
    parts = dependencies(step, parameters, results)
    reason = "forced" if force else _why(step, parts, record_path, results)
    if not reason:
        return Outcome(step.name, skipped=True, seconds=0.0, reason="")
    with files.writing(record_path):
        record_path.unlink(missing_ok=True)
    start = time.monotonic()
    execute(step, parameters, results)
    missing = [name for name in step.writes if not (results / name).is_file()]
    if missing:
        raise StepFailed(f"{step.name} ended without writing {results / missing[0]}")
    seconds = time.monotonic() - start
    written = {name: hashes.file(results / name) for name in step.writes}
    record = {"key": key(parts), "seconds": seconds, "depends": parts, "written": written}
    with files.replacing(record_path) as part:
        part.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return Outcome(step.name, skipped=False, seconds=seconds, reason=reason)


def _why(step: Step, parts: Mapping[str, Any], record_path: Path, results: Path) -> str:
    """Why a step must run; empty if it need not."""
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        before, written = record["depends"], record["written"]
    except (OSError, ValueError, KeyError):
        return "not run before"
    for name, now in parts.items():
        then = before.get(name)
        if then != json.loads(json.dumps(now)):
            if not isinstance(now, dict) or not isinstance(then, dict):
                return f"{name} changed"
            items = sorted(i for i in {*now, *then} if now.get(i) != then.get(i))
            rest = f" and {len(items) - 3} more" if len(items) > 3 else ""
            return f"{name} changed: {', '.join(items[:3])}{rest}"
    for name in step.writes:
        if not (results / name).is_file():
            return f"{name} is missing"
        if not _is_intact(results / name, written.get(name)):
            return f"{name} was altered"
    if not (results / "notebooks" / f"{step.name}.ipynb").is_file():
        return "executed copy is missing"
    return ""


def _is_intact(path: Path, expected: str | None) -> bool:
    """Whether a written file still has the content that its step recorded."""
    try:
        return hashes.file(path) == expected
    except InputError:  # truncated or damaged
        return False


def execute(step: Step, parameters: Mapping[str, Any], results: Path) -> Path:
    """Run one notebook through papermill and return its executed copy.

    The copy appears when it is complete; a failed one is kept as `<name>.failed.ipynb`.
    """
    from papermill.exceptions import PapermillExecutionError

    folder = results / "notebooks"
    partial = folder / f".{step.name}.partial.ipynb"
    done, failed = folder / f"{step.name}.ipynb", folder / f"{step.name}.failed.ipynb"
    with files.writing(results):
        try:
            _through_papermill(step, parameters, results, partial)
            partial.replace(done)
            failed.unlink(missing_ok=True)
        except PapermillExecutionError as error:
            partial.replace(failed)
            raise _stopped(step, error.ename, error.evalue, failed) from error
        except RuntimeError as error:
            if "Kernel died" not in str(error):  # nbclient has a class for it only in a cell
                raise
            if partial.exists():
                partial.replace(failed)
            raise StepFailed(
                f"{step.name}: its kernel died, perhaps because memory ran out; repeat the "
                "command, which resumes"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    return done


def _through_papermill(
    step: Step, parameters: Mapping[str, Any], results: Path, copy: Path
) -> None:
    """Execute a notebook in a kernel; `copy` is written after each cell."""
    import papermill

    from kdlib.pipeline import kernel

    with (results / "logs" / f"{step.name}.log").open("w", encoding="utf-8") as log:
        papermill.execute_notebook(
            _literal(step.path),
            _literal(copy),
            parameters=dict(parameters),
            kernel_name=kernel.NAME,
            language="python",
            kernel_manager_class=kernel.ThisPython,
            progress_bar=False,
            stdout_file=log,
            stderr_file=log,
            cwd=results,
        )


def _literal(path: Path) -> str:
    """Path whose braces papermill does not take for places of parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _stopped(step: Step, name: str, message: str, failed: Path) -> Exception:
    """Error of the command for one that was raised in a notebook."""
    if name == InputError.__name__:
        return InputError(f"{step.name}: {message}")
    if name == WorkerKilled.__name__:
        return StepFailed(f"{step.name}: {message}")
    if name == MemoryError.__name__:
        reason = message or "memory ran out"
        return StepFailed(f"{step.name}: {reason}; repeat the command, which resumes")
    return StepFailed(f"{step.name} failed ({name}); open {failed}")


def _report(bar: tqdm, outcome: Outcome) -> None:
    """Write one line for a step that ran, and advance the bar."""
    if not outcome.skipped:
        progress.line(f"{outcome.name}: {outcome.seconds:.0f} s ({outcome.reason})")
    bar.update()
