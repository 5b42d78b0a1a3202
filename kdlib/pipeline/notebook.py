"""The steps of a run: notebooks with declared parameters, inputs and outputs, in their order.

A notebook's metadata name the result files that it reads and writes,
`{"kdlib": {"reads": ["accuracy_teacher.nc"], "writes": ["accuracy_students.nc"]}}`; the order of
the steps follows from these alone. Parameters are the assignments in the one cell tagged
`parameters`, each with a type and a comment. What a type cannot express is checked by a function
named in the metadata, `{"kdlib": {"checks": {"training": "kdlib.training:TrainingConfig.of"}}}`.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import nbformat

from kdlib.errors import InputError

PARAMETERS_TAG = "parameters"
"""Tag of the cell that papermill overrides."""


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `seeds: list = [0, 1]  # training seeds`."""

    name: str
    type: str
    """Annotation as written; empty if there is none."""
    default: str
    """Source text of the default value."""
    help: str
    """Comment at the end of the line."""


@dataclass(frozen=True)
class Step:
    """One notebook of a run."""

    path: Path
    reads: tuple[str, ...] = ()
    """Result files it reads, relative to the results folder."""
    writes: tuple[str, ...] = ()
    """Result files it writes, relative to the results folder."""
    checks: Mapping[str, str] = field(default_factory=dict)
    """Parameter -> function, as `module:name`, that raises `InputError` for a wrong value."""
    cells: tuple[str, ...] = ()
    """Source of every code cell."""

    @property
    def name(self) -> str:
        """File name without its ending, e.g. `05_speed_and_memory`."""
        return self.path.stem

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Parameters that its parameters cell declares."""
        return inspect(self.path)


def read(path: Path) -> Step:
    """Read one notebook's declarations."""
    notebook = opened(path)
    declared = notebook.metadata.get("kdlib", {})
    if not isinstance(declared, dict) or not isinstance(declared.get("checks", {}), dict):
        raise InputError(f"{path}: metadata kdlib and kdlib.checks must be mappings")
    for key in ("reads", "writes"):
        names = declared.get(key, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path}: metadata kdlib.{key} must be a list of file names")
    cells = tuple(cell.source for cell in notebook.cells if cell.cell_type == "code")
    reads, writes = (tuple(declared.get(key, ())) for key in ("reads", "writes"))
    return Step(path, reads, writes, declared.get("checks", {}), cells)


def opened(path: Path) -> nbformat.NotebookNode:
    """Notebook of any version of the format, as one of version 4."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises whatever its JSON reader and validator do
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: not a readable notebook ({reason})") from error


def inspect(path: Path) -> dict[str, Parameter]:
    """Return the declared parameters of a notebook by name.

    papermill only logs a missing parameters cell; here it is an error.
    """
    # papermill's inspect_notebook would ask for a kernel; its import takes seconds.
    from papermill.translators import PythonTranslator

    notebook = opened(path)
    tagged = [cell for cell in notebook.cells if PARAMETERS_TAG in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise InputError(
            f"{path}: a notebook needs one cell tagged '{PARAMETERS_TAG}', found {len(tagged)}"
        )
    return {
        found.name: Parameter(
            name=found.name,
            type="" if found.inferred_type_name == "None" else found.inferred_type_name,
            default=found.default,
            help=found.help,
        )
        for found in PythonTranslator.inspect(tagged[0])
    }


def discover(folder: Path) -> list[Step]:
    """Read all notebooks of a folder, in the order in which they must run."""
    paths = sorted(path for path in folder.glob("*.ipynb") if not path.name.startswith("."))
    if not paths:
        raise InputError(f"{folder}: no notebooks found")
    return order([read(path) for path in paths])


def makers(steps: list[Step]) -> dict[str, Step]:
    """Map every written file to the step that writes it."""
    made: dict[str, Step] = {}
    for step in steps:
        for name in step.writes:
            if name in made:
                raise InputError(f"{name} is written by both {made[name].name} and {step.name}")
            made[name] = step
    return made


def order(steps: list[Step]) -> list[Step]:
    """Sort steps so that each comes after the makers of what it reads; ties by name."""
    made = makers(steps)
    by_name = {step.name: step for step in steps}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for step in steps:
        missing = [name for name in step.reads if name not in made]
        if missing:
            raise InputError(f"{step.path}: reads {missing[0]}, which no notebook writes")
        sorter.add(step.name, *(made[name].name for name in step.reads))
    try:
        sorter.prepare()
    except CycleError as error:
        circle = ", ".join(sorted(set(error.args[1])))
        raise InputError(f"notebooks read each other's files in a circle: {circle}") from None
    ready: list[str] = []
    result = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, name)
        first = heapq.heappop(ready)  # static_order() would take a whole level before the next
        result.append(by_name[first])
        sorter.done(first)
    return result


def check_value(step: Step, name: str, value: Any) -> None:
    """Refuse a parameter that a notebook does not declare, or a value of another type."""
    parameter = step.parameters.get(name)
    if parameter is None:
        known = ", ".join(step.parameters)
        raise InputError(f"{step.path.name}: no parameter '{name}' (it has: {known})")
    allowed = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
    allowed |= {"list": (list,), "dict": (dict,)}
    expected = allowed.get(parameter.type)
    wrong_bool = isinstance(value, bool) and parameter.type != "bool"
    if expected is not None and (wrong_bool or not isinstance(value, expected)):
        raise InputError(
            f"{step.path.name}: parameter '{name}' must be {parameter.type}, got {value!r}"
        )
    if name in step.checks:
        try:
            resolve_name(step.checks[name])(value)
        except (ImportError, AttributeError) as error:
            raise InputError(f"{step.path}: metadata kdlib.checks: {error}") from error
        except InputError as error:
            raise InputError(f"{step.path.name}: {error}") from error
