"""Profiles: the parameters of a whole run, in one YAML file.

Three keys: `description` says what the profile is for and how long it takes; `common` holds values
for every notebook that declares a parameter of that name; `notebooks` maps a notebook's name to
values for it alone, which override the common ones. A `dataset` that is not registered is a file or
a pattern, relative to the profile.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdlib import datasets
from kdlib.datasets.readers import expand
from kdlib.errors import InputError
from kdlib.files import matching, named
from kdlib.pipeline.notebook import Step, check_value

FOLDER = Path(__file__).parent / "profiles"
"""Folder of the profiles that come with the package."""


@dataclass(frozen=True)
class Profile:
    """Parameters of a whole run."""

    name: str
    """File name without its ending; also names the results folder."""
    description: str = ""
    common: Mapping[str, Any] = field(default_factory=dict)
    """Values for every notebook that declares a parameter of that name."""
    notebooks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Values for single notebooks, by file name without its ending."""

    def parameters(self, step: Step) -> dict[str, Any]:
        """Return the values for one notebook."""
        common = {key: value for key, value in self.common.items() if key in step.parameters}
        return common | dict(self.notebooks.get(step.name, {}))

    def validate(self, steps: list[Step]) -> None:
        """Refuse values that no notebook accepts, before any notebook runs."""
        names = {step.name for step in steps}
        for name in self.notebooks:
            if name not in names:
                raise InputError(f"profile {self.name}: no notebook '{name}'")
        declared = {name for step in steps for name in step.parameters}
        for key in self.common:
            if key not in declared:
                raise InputError(f"profile {self.name}: no notebook has a parameter '{key}'")
        for step in steps:
            for key, value in self.parameters(step).items():
                check_value(step, key, value)


def available() -> list[str]:
    """Return the names of the profiles that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name_or_path: str | Path) -> Profile:
    """Read a profile, by the name of one that comes with the package or from a YAML file."""
    path = named(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name_or_path}.yaml"
        if not os.path.isfile(path):
            known = ", ".join(available())
            raise InputError(f"no profile '{name_or_path}' (there are: {known}, or a .yaml file)")
    try:
        content = yaml.safe_load(path.read_bytes())  # in UTF-8, or what its first bytes say
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable profile ({reason})") from error
    return _checked(path, content if content is not None else {})


def _checked(path: Path, content: Any) -> Profile:
    """Turn a parsed file into a profile; an InputError names the rule that it breaks."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: a profile is a mapping, got {type(content).__name__}")
    known = ("description", "common", "notebooks")
    if unknown := [key for key in content if key not in known]:
        raise InputError(f"{path}: unknown key '{unknown[0]}' ({', '.join(known)})")
    common, notebooks = (content.get(key) or {} for key in known[1:])
    if not isinstance(notebooks, dict):
        raise InputError(f"{path}: 'notebooks' must map names to parameters, got {notebooks!r}")
    notebooks = {name: values or {} for name, values in notebooks.items()}
    for name, values in {"common": common, **notebooks}.items():
        if not isinstance(values, dict):
            raise InputError(f"{path}: '{name}' must map parameters to values, got {values!r}")
        _check_plain(path, values)
    home = path.resolve().parent
    common = _anchored(home, _with_dataset(path, common))
    notebooks = {
        name: _anchored(home, _with_dataset(path, values)) for name, values in notebooks.items()
    }
    return Profile(path.stem, str(content.get("description", "")).strip(), common, notebooks)


def _check_plain(path: Path, values: dict[str, Any]) -> None:
    """Refuse values that no record can hold, such as the dates that YAML makes of 2024-01-01."""
    for key, value in values.items():
        try:
            json.dumps(value, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: '{key}' must be made of numbers, text, lists and mappings "
                             f"({error})") from error  # fmt: skip


def _anchored(home: Path, value: Any) -> Any:
    """Value in which the names of files in the profile's folder are absolute, also in lists.

    A name has a dot or a slash, so that words such as ``emt`` keep their meaning, or follows the
    kind of a teacher: ``eam:Cu.eam``, ``kdlib:student``.
    """
    if isinstance(value, dict):
        return {key: _anchored(home, one) for key, one in value.items()}
    if isinstance(value, list):
        return [_anchored(home, one) for one in value]
    if not isinstance(value, str):
        return value
    kind, colon, rest = value.partition(":")
    own = home / named(value)
    if {".", "/"} & set(value) and (os.path.exists(own) or matching(own)):
        return str(own)
    if rest and os.path.exists(home / named(rest)):
        return f"{kind}{colon}{home / named(rest)}"
    return value


def _with_dataset(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Make a dataset that is not registered an absolute path or pattern of existing files."""
    dataset = values.get("dataset")
    if not isinstance(dataset, str) or dataset in datasets.names():
        return values
    own = str(path.resolve().parent / named(dataset))
    try:
        expand(own)
    except InputError as error:
        raise InputError(f"{path}: dataset: {error}") from error
    return values | {"dataset": own}
