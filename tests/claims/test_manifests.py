"""The manifests for other programs say what the audit says, where it says it."""

import hashlib
import json
import shutil
import subprocess
import tomllib
from decimal import Decimal
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import yaml

from kdlib import claims, results
from kdlib.claims import manifests
from kdlib.claims.index import HEADLINES

SOURCES = ("pyproject.toml", "CITATION.cff", "README.md", manifests.AUDIT)


@pytest.fixture(scope="module")
def audit(planted) -> xr.Dataset:
    """Audit of synthetic results without timings, so that some claims are not measured."""
    return claims.audit({kind: ds for kind, ds in planted().items() if kind != "speed"})


@pytest.fixture
def checkout(project: Path, audit: xr.Dataset, tmp_path: Path) -> Path:
    """Folder with that audit, and the manifests written from it."""
    for name in ("pyproject.toml", "CITATION.cff"):
        shutil.copy(project / name, tmp_path)
    (tmp_path / "README.md").write_text(claims.headlines(audit), encoding="utf-8")
    results.save(audit, tmp_path / manifests.AUDIT, kind="figure")
    manifests.write(tmp_path)
    return tmp_path


def _repro(folder: Path) -> dict:
    return yaml.safe_load((folder / "repro.yaml").read_text(encoding="utf-8"))


def test_shipped_manifests_follow_from_the_shipped_audit(project: Path, tmp_path: Path):
    """`kdlib manifests` would change nothing; run it after replacing figures/claims.nc."""
    if not (project / manifests.AUDIT).is_file():
        pytest.skip("figures are not beside the tests")
    (tmp_path / "figures").mkdir()
    for name in SOURCES:
        shutil.copy(project / name, tmp_path / name)
    for path in manifests.write(tmp_path):
        assert path.read_text(encoding="utf-8") == (project / path.name).read_text(encoding="utf-8")


def test_every_claim_is_declared_once(checkout: Path, audit: xr.Dataset):
    """With its sentence and verdict, and with value and interval unless it was not measured."""
    assert {"holds", "not measured"} <= set(audit.verdict.values.tolist())
    declared = _repro(checkout)["claims"]
    assert [claim["id"] for claim in declared] == audit.claim.values.tolist()
    for k, claim in enumerate(declared):
        row = audit.isel(claim=k)
        assert claim["text"] == f"{row.statement.values}: {row.verdict.values}"
        assert claim["where"] == str(row.section.values)
        numbers = {e["name"]: e["reported"] for e in claim["evidence"] if e["kind"] == "value"}
        assert numbers == {
            name: f"{float(row[name]):.3g}"
            for name in ("value", "ci_low", "ci_high")
            if np.isfinite(row[name])
        }


def test_evidence_lies_where_the_manifest_says(checkout: Path):
    """The file has the digest, its arrays the numbers as printed, and README the quoted rows."""
    manifest = _repro(checkout)
    audit, readme = manifest["artifacts"]
    data = (checkout / audit["path"]).read_bytes()
    assert audit["digest"] == {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}
    text = (checkout / readme["path"]).read_text(encoding="utf-8").replace("\xa0", " ")
    evidence = [item for claim in manifest["claims"] for item in claim["evidence"]]
    with h5py.File(checkout / audit["path"]) as file:
        for item in evidence:
            if item["kind"] == "quote":
                assert item["text"] in text.splitlines()
                continue
            stored = file[item["locator"]["array"]][tuple(item["locator"]["index"])]
            printed = Decimal(item["reported"])
            assert Decimal(float(stored)).quantize(printed) == printed
    quotes = [item for item in evidence if item["kind"] == "quote"]
    assert len(quotes) == len(HEADLINES)


def test_another_number_changes_its_own_claim_alone(checkout: Path, audit: xr.Dataset):
    """The digest and the evidence of one claim follow an audit with one other value."""
    before = _repro(checkout)
    other = audit.copy(deep=True)
    other.value[-1] *= 1.1
    results.save(other, checkout / manifests.AUDIT, kind="figure")
    manifests.write(checkout)
    after = _repro(checkout)
    pairs = zip(before.pop("claims"), after.pop("claims"), strict=True)
    changed = [one["id"] for one, two in pairs if one != two]
    assert changed == [str(audit.claim[-1].values)]
    assert before["artifacts"][0].pop("digest") != after["artifacts"][0].pop("digest")
    assert before == after


def test_the_software_is_described_from_its_own_files(checkout: Path, audit: xr.Dataset):
    """Name, requirements and paper are those of pyproject.toml and CITATION.cff."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    paper = yaml.safe_load((checkout / "CITATION.cff").read_text())["preferred-citation"]
    described = json.loads((checkout / "codemeta.json").read_text(encoding="utf-8"))
    assert described["@context"] == "https://w3id.org/codemeta/3.0"
    for key in ("name", "version", "description", "keywords", "readme"):
        assert described[key] == project[key]
    assert described["license"].rpartition("/")[2] == project["license"]
    assert described["author"] == [{"@type": "Organization", "name": "kdlib contributors"}]
    needed = [item["name"] + item.get("version", "") for item in described["softwareRequirements"]]
    assert needed == project["dependencies"]
    publication = described["referencePublication"]
    assert publication["@id"] == f"https://doi.org/{paper['doi']}"
    assert publication["name"] == paper["title"]
    people = [{k: v for k, v in person.items() if k != "@type"} for person in publication["author"]]
    assert people == [
        {"givenName": author["given-names"], "familyName": author["family-names"]}
        for author in paper["authors"]
    ]
    assert described["supportingData"]["description"] == claims.tally(audit)


def test_claims_cli_agrees(checkout: Path):
    """Where claims-cli is installed, it verifies the manifest, and refuses another last digit."""
    program = shutil.which("claims")
    if not program:
        pytest.skip("claims-cli[netcdf] is not installed")
    path = checkout / "repro.yaml"

    def verify() -> tuple[int, dict]:
        command = [program, "verify", "--format", "json", path]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, json.loads(done.stdout)

    status, report = verify()
    assert status == 0, report
    text = path.read_text(encoding="utf-8")
    printed = _repro(checkout)["claims"][-1]["evidence"][0]["reported"]
    head, _, tail = text.rpartition(f"name: value\n    reported: '{printed}'")
    other = Decimal(printed) + Decimal((0, (1,), Decimal(printed).as_tuple().exponent))
    path.write_text(f"{head}name: value\n    reported: '{other}'{tail}", encoding="utf-8")
    assert verify()[0] == 1
