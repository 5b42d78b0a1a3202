"""The audit of the paper's claims: each as a number with an interval and a verdict."""

import math
import os
from collections.abc import Mapping

import numpy as np
import xarray as xr

from kdlib import results
from kdlib.claims.choices import choices
from kdlib.claims.evidence import Finding, Results, error_ratio, find, learning_ratio
from kdlib.claims.paper import DEFAULT, PAPER, Claim, Margins, claims
from kdlib.claims.statistics import Interval, written
from kdlib.results import schema

__all__ = ["PAPER", "Claim", "Margins", "audit", "choices", "claims", "verdict"]

#: The audit does not tell how many runs would decide beyond this many times those there are.
MOST_RUNS = 100
_KINDS = ("accuracy", "history", "speed", "rdf", "data")


def verdict(interval: Interval, low: float, high: float) -> str:
    """Judge an interval against a claimed range, possibly infinite.

    A claim holds if the interval over training runs lies wholly in the range, does not hold if it
    lies wholly outside, and is not decided otherwise. (In an audit, one network size that alone
    contradicts a claim on all sizes disproves it, too.)
    """
    if not interval.n or not np.isfinite(interval.value):
        return "not measured"
    if not (np.isfinite(interval.low) and np.isfinite(interval.high)):
        return "not decided"
    if low < interval.low and interval.high < high:
        return "holds"
    if interval.high < low or interval.low > high:
        return "does not hold"
    return "not decided"


def audit(
    found: Mapping[str, xr.Dataset] | str | os.PathLike[str], margins: Margins = DEFAULT
) -> xr.Dataset:
    """Judge every claim, and list every choice that the paper leaves open.

    Parameters
    ----------
    found
        Result Datasets by kind (accuracy, history, speed, rdf, data), or a results folder.
    margins
        Meaning of "minimal", "comparable" and "constant", and of being at the floor.

    Returns
    -------
    xr.Dataset
        Kind ``claims``.
    """
    if not isinstance(found, Mapping):
        parts = {kind: results.collect(found, kind) for kind in _KINDS}
        found = {kind: ds for kind, ds in parts.items() if ds is not None}
    rows = [_row(claim, found, margins) for claim in claims(margins)]
    columns = {name: ("claim", [row[name] for row in rows]) for name in rows[0]}
    ds = xr.Dataset(columns).set_coords("claim")
    open_points = choices(found)
    return schema.describe(ds.merge(open_points), "claims")


def _row(claim: Claim, found: Results, margins: Margins) -> dict[str, str | float | int]:
    finding = find(claim.measure, found)
    interval = finding.interval
    judged = verdict(interval, claim.low, claim.high)
    against = _counterexample(claim, finding)
    if against and judged != "not measured":
        judged = "does not hold"
    carried = finding.worst_share > margins.worst_share
    if carried and judged != "not measured":
        judged = "not decided"
    at_floor, gains = _floor(finding.floor_gains, margins.floor)
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "section": claim.section,
        "paper_value": claim.paper,
        "value": interval.value,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "noise_low": finding.noise[0],
        "noise_high": finding.noise[1],
        "unit": claim.unit,
        "rule": claim.rule,
        "n_pairs": interval.n,
        "verdict": judged,
        "reason": _reason(claim, finding, judged, carried, against, found),
        "at_floor": at_floor,
        "floor_reason": gains,
    }


def _counterexample(claim: Claim, finding: Finding) -> str:
    """Architecture that alone contradicts the claim the most; empty if there is none.

    What a claim says of networks of equal size it says of each size: a mean may hide that an effect
    helps one and harms another.
    """
    found = {
        name: max(one.low - claim.high, claim.low - one.high)
        for name, one in finding.alone.items()
        if np.isfinite(one.low) and (one.low > claim.high or one.high < claim.low)
    }
    return max(found, key=lambda name: found[name]) if found else ""


def _floor(gains: Mapping[str, np.ndarray], limit: float) -> tuple[str, str]:
    """Whether the trainings compared reached their floor, and the largest gain of each role."""
    if not gains:
        return "", ""
    checked = {role: values[np.isfinite(values)] for role, values in gains.items()}
    largest = {role: values.max() for role, values in checked.items() if values.size}
    above = {role: gain for role, gain in largest.items() if gain >= limit}
    missing = [schema.ROLE_NAMES[role] for role in gains if checked[role].size < gains[role].size]
    told = ", ".join(
        f"{schema.ROLE_NAMES[role]} {gain:.1%}" for role, gain in (above or largest).items()
    )
    told += f" by doubling the epochs (limit {100 * limit:g}%)" if told else ""
    if above:
        return "no", f"not at their floor: {told}"
    if missing:
        return "not checked", f"floor not checked: {', '.join(missing)}"
    return "yes", f"at their floor: {told}"


def _reason(
    claim: Claim, finding: Finding, judged: str, carried: bool, against: str, found: Results
) -> str:
    """Explain the number, the verdict, and the difference from the paper's number."""
    interval, parts = finding.interval, [finding.grounds]
    if judged == "not measured":
        return finding.grounds
    if carried:
        parts.append(f"one test frame has {finding.worst_share:.0%} of the squared error")
    elif not np.isfinite(interval.low):
        parts.append(f"{interval.n} run{'s' if interval.n != 1 else ''} give no interval")
    elif judged == "not decided":
        parts += undecided(claim, interval)
    elif against:
        parts.append(
            f"{against} alone has {finding.alone[against].text()}, corrected for the choice "
            f"among {len(finding.alone)}"
        )
    if np.isfinite(finding.noise[0]):
        _, low, high = written(interval.value, *finding.noise)
        parts.append(f"the test frames alone move it from {low} to {high}")
    if np.isfinite(claim.paper) and np.isfinite(interval.low):
        inside = interval.low <= claim.paper <= interval.high
        place = "inside" if inside else "outside"
        parts.append(f"the paper's {claim.paper:.3g} lies {place} the interval")
    parts += _confound(claim, interval, found)
    return "; ".join(parts)


def undecided(claim: Claim, interval: Interval) -> list[str]:
    """Name the limit that an interval cannot exclude, and how many more runs would.

    An interval shrinks as the square root of the number of runs, if their scatter stays.
    """
    value, low, high, _ = interval
    needed = {}
    for limit in (claim.low, claim.high):
        if low <= limit <= high:
            half = value - low if limit < value else high - value
            needed[limit] = (half / abs(value - limit)) ** 2 if value != limit else math.inf
    limit = max(needed, key=lambda x: needed[x])
    times = f"{needed[limit]:.2g}" if needed[limit] < MOST_RUNS else f"over {MOST_RUNS}"
    return [
        f"its interval contains {limit:.3g}",
        f"with scatter as here, {times} times as many runs would decide",
    ]


def _confound(claim: Claim, interval: Interval, found: Results) -> list[str]:
    """Share of a gain over the control that the force weight alone explains."""
    pairs = {
        "force_control": error_ratio("force_rmse", "matched_control", "control"),
        "rdf_control": error_ratio("rdf_error", "matched_control", "control", "rdf"),
        "learning_control": learning_ratio("matched_control", "control"),
        "born_again_force_teacher": error_ratio("force_rmse", "born_again_control", "teacher"),
    }
    if claim.name not in pairs:
        return []
    alone = find(pairs[claim.name], found).interval
    if not alone.n:
        return ["its matched control was not measured, so the loss weights may explain it"]
    text = f"the same loss weights without labels give {written(alone.value)[0]}"
    if interval.value < 1 and alone.value < 1:
        text += f", {math.log(alone.value) / math.log(interval.value):.2g} times the gain"
    return [text]
