"""The audit for other programs: `repro.yaml`, which claims-cli checks, and `codemeta.json`.

Both lie at the top of a checkout and follow from files that are there already: the data of the
figure `claims`, pyproject.toml, CITATION.cff, and the headlines in README.
"""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml

from kdlib import results
from kdlib.claims.index import HEADLINES, headlines, tally
from kdlib.errors import InputError
from kdlib.files import replacing

__all__ = ["codemeta", "repro", "write"]

#: The audit, from the top of the checkout.
AUDIT = "figures/claims.nc"
_NUMBERS = ("value", "ci_low", "ci_high")


def write(root: str | os.PathLike[str]) -> list[Path]:
    """Write ``repro.yaml`` and ``codemeta.json`` at the top of a checkout; return their paths."""
    root = Path(root)
    project = tomllib.loads(_text(root / "pyproject.toml"))["project"]
    citation = yaml.safe_load(_text(root / "CITATION.cff"))
    table = results.load(root / AUDIT, "figure")
    digest = hashlib.sha256((root / AUDIT).read_bytes()).hexdigest()
    texts = {
        "repro.yaml": repro(table, digest, project),
        "codemeta.json": codemeta(table, project, citation),
    }
    for name, text in texts.items():
        with replacing(root / name) as part:
            part.write_text(text, encoding="utf-8")
    return [root / name for name in texts]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read, run this in a checkout of kdlib") from error


def repro(table: xr.Dataset, digest: str, project: Mapping[str, Any]) -> str:
    """Return the manifest of claims in the format ``repro/1``.

    Every claim names its verdict, and its value and interval with their place in the file. For the
    headlines, the row of README is quoted.

    Parameters
    ----------
    table
        Result of `kdlib.claims.audit`, or the data of its figure.
    digest
        SHA-256 of the file that holds ``table``, from which the numbers are read again.
    project
        Table ``project`` of pyproject.toml.
    """
    rows = dict(zip(HEADLINES, headlines(table).splitlines()[2:], strict=True))
    manifest = {
        "schema_version": "repro/1",
        "project": project["name"],
        "provenance": {"generated_by": "kdlib manifests"},
        "artifacts": [
            {"id": "audit", "path": AUDIT, "digest": {"algorithm": "sha256", "value": digest}},
            # Without a digest: whatever else is edited there, the quoted rows have to stay.
            {"id": "readme", "path": project["readme"]},
        ],
        "claims": [
            _claim(table.isel(claim=k), k, rows.get(name, ""))
            for k, name in enumerate(table.claim.values.tolist())
        ],
    }
    return yaml.safe_dump(
        manifest, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )


def _claim(row: xr.Dataset, place: int, headline: str) -> dict[str, Any]:
    """Claim number ``place`` of the audit; a number that was not measured is no evidence."""
    evidence: list[dict[str, Any]] = [
        {
            "kind": "value",
            "artifact": "audit",
            "name": name,
            "reported": f"{float(row[name]):.3g}",
            "locator": {"kind": "array", "array": name, "index": [place]},
        }
        for name in _NUMBERS
        if np.isfinite(row[name])
    ]
    if headline:
        quoted = headline.replace("\N{NO-BREAK SPACE}", " ")
        evidence.append({"kind": "quote", "artifact": "readme", "text": quoted})
    return {
        "id": str(row.claim.values),
        "text": f"{row.statement.values}: {row.verdict.values}",
        "where": str(row.section.values),
        "evidence": evidence,
    }


def codemeta(table: xr.Dataset, project: Mapping[str, Any], citation: Mapping[str, Any]) -> str:
    """Return the description of this software in CodeMeta 3.0, with the count of all verdicts.

    Parameters
    ----------
    table
        Result of `kdlib.claims.audit`, or the data of its figure.
    project
        Table ``project`` of pyproject.toml.
    citation
        Content of CITATION.cff.
    """
    paper = citation["preferred-citation"]
    classes = [line.split(" :: ") for line in project["classifiers"]]
    described = {
        "@context": "https://w3id.org/codemeta/3.0",
        "@type": "SoftwareSourceCode",
        **{key: project[key] for key in ("name", "version", "description", "keywords", "readme")},
        "license": f"https://spdx.org/licenses/{project['license']}",
        "author": [_agent(author) for author in citation["authors"]],
        "programmingLanguage": next(c[1] for c in classes if c[0] == "Programming Language"),
        "operatingSystem": next(c[-1] for c in classes if c[0] == "Operating System"),
        "runtimePlatform": f"Python {project['requires-python']}",
        "softwareRequirements": [_requirement(line) for line in project["dependencies"]],
        "referencePublication": {
            "@type": "schema:ScholarlyArticle",
            "@id": f"https://doi.org/{paper['doi']}",
            "name": paper["title"],
            "author": [_agent(author) for author in paper["authors"]],
            "isPartOf": {"@type": "schema:Periodical", "name": paper["journal"]},
            "datePublished": str(paper["year"]),
        },
        "supportingData": {
            "@type": "schema:DataFeed",
            "name": "Audit of the paper's claims",
            "description": tally(table),
            "url": AUDIT,
            "dateCreated": table.attrs["created"].partition("T")[0],
        },
    }
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"


def _agent(author: Mapping[str, str]) -> dict[str, str]:
    """Person or entity of CITATION.cff."""
    if "name" in author:
        return {"@type": "Organization", "name": author["name"]}
    names = {"givenName": author["given-names"], "familyName": author["family-names"]}
    return {"@type": "Person", **names}


def _requirement(line: str) -> dict[str, str]:
    """Dependency as pyproject.toml has it, e.g. ``hippynn>=0.1.3``."""
    name, version = re.fullmatch(r"([\w.-]+)(.*)", line).groups()  # type: ignore[union-attr]
    found = {"@type": "SoftwareApplication", "name": name}
    return found | ({"version": version} if version else {})
