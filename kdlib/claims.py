"""The paper's claims, each as a number with an interval and a verdict.

A claim holds if the 95 % interval over training runs lies wholly in the claimed range, does not
hold if it lies wholly outside, and is not decided otherwise. Nothing here is typed in but the
paper's own values, in `PAPER`.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from kdlib import results, schema
from kdlib.choices import choices
from kdlib.evidence import (
    Finding,
    Measure,
    Results,
    best_smaller_student,
    cost_ratio,
    cost_slope,
    error_ratio,
    find,
    front_ratio,
    learning_drift,
    learning_ratio,
    rdf_correlation,
)
from kdlib.intervals import Interval

__all__ = ["PAPER", "Claim", "Margins", "audit", "choices", "claims", "verdict"]

#: The numbers that the paper gives for results, in section 3.5: name -> (value, spread, unit).
#: Everything else is shown in figures without tabulated values.
PAPER: dict[str, tuple[float, float, str]] = {
    "teacher_energy_rmse": (0.38, math.nan, "eV"),
    "teacher_force_rmse": (0.092, math.nan, "eV/Angstrom"),
    "born_again_energy_rmse": (0.37, 0.02, "eV"),
    "born_again_force_rmse": (0.083, 0.003, "eV/Angstrom"),
}

_KINDS = ("accuracy", "history", "speed", "rdf")


@dataclass(frozen=True)
class Margins:
    """Where the paper's words have no number.

    Attributes
    ----------
    minimal
        Largest relative gain that still counts as "minimally improved".
    comparable
        Largest relative difference that still counts as "comparable".
    constant
        Largest relative change over the training of a "roughly constant" factor.
    """

    minimal: float = 0.10
    comparable: float = 0.10
    constant: float = 0.20


DEFAULT = Margins()


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes
    ----------
    name
        Key in the audit.
    section
        Where the paper makes it; "ours" if it is a control that the paper lacks.
    statement
        The claim in words.
    low, high
        Claimed range of the number, in `unit`.
    measure
        Gives the number.
    paper
        The paper's own value of it, NaN if it has none.
    unit
        Unit of all of these.
    """

    name: str
    section: str
    statement: str
    low: float
    high: float
    measure: Measure = field(repr=False)
    paper: float = math.nan
    unit: str = "1"

    @property
    def rule(self) -> str:
        """The claimed range in words."""
        if math.isinf(self.low):
            return f"interval below {self.high:.3g}"
        if math.isinf(self.high):
            return f"interval above {self.low:.3g}"
        return f"interval within {self.low:.3g} to {self.high:.3g}"


def verdict(interval: Interval, low: float, high: float) -> str:
    """Judge an interval against a claimed range.

    Parameters
    ----------
    interval
        Estimate with its interval; NaN ends if one run gives none.
    low, high
        Claimed range, possibly infinite.
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


def claims(margins: Margins = DEFAULT) -> tuple[Claim, ...]:
    """Every claim of the abstract, sections 3.1-3.5 and 4, in the paper's order."""
    return (
        *_abstract(),
        *_pareto(),
        *_capacity(margins),
        *_dynamics(margins),
        *_cost(),
        *_born_again(margins),
    )


def _below(
    name: str, section: str, statement: str, measure: Measure, paper: float = math.nan
) -> Claim:
    """Claim that a ratio is below one."""
    return Claim(name, section, statement, -math.inf, 1.0, measure, paper)


def _abstract() -> Iterator[Claim]:
    yield _below(
        "student_beats_teacher",
        "abstract",
        "A student smaller than its teacher has a lower force RMSE than the teacher",
        best_smaller_student,
    )
    for cost, words in (("time", "are faster in MD"), ("memory", "need less memory per atom")):
        for backend in schema.BACKENDS:
            yield _below(
                f"{cost}_vs_teacher_{backend}",
                "abstract",
                f"Models smaller than the teacher {words} ({backend}; ratio to the teacher)",
                cost_ratio(cost, backend),
            )


def _pareto() -> Iterator[Claim]:
    for other, section in (("control", "3.1, 4"), ("matched_control", "ours")):
        for cost in ("time", "memory"):
            yield _below(
                f"pareto_{cost}_{other}",
                section,
                f"At every {cost}, the best student has a lower force RMSE than the best "
                f"{schema.ROLE_NAMES[other]} (Pareto dominance; largest ratio)",
                front_ratio(cost, "student", other),
            )


def _capacity(margins: Margins) -> Iterator[Claim]:
    for other, section in (("control", "3.2"), ("matched_control", "ours")):
        words = schema.ROLE_NAMES[other]
        yield _below(
            f"force_{other}",
            section,
            f"At equal capacity, students have a lower force RMSE than {words}s (ratio)",
            error_ratio("force_rmse", "student", other),
        )
        yield Claim(
            f"energy_{other}",
            section,
            f"At equal capacity, the energy RMSE is improved, but only minimally, over {words}s "
            f"(ratio, by at most {margins.minimal:.0%})",
            1 - margins.minimal,
            1.0,
            error_ratio("energy_rmse", "student", other),
        )
        yield _below(
            f"rdf_{other}",
            section,
            f"At equal capacity, the g(r) error against the own teacher is lower than that of "
            f"{words}s (ratio)",
            error_ratio("rdf_error", "student", other, "rdf"),
        )
    yield _below(
        "rdf_other_teachers",
        "ours",
        "The same against teachers of other seeds, which flatters no student (ratio to controls)",
        error_ratio("rdf_error_other_teachers", "student", "control", "rdf"),
    )
    yield Claim(
        "rdf_correlation",
        "3.2, 4",
        "Force RMSE correlates with the g(r) error (rank correlation)",
        0.0,
        math.inf,
        rdf_correlation,
    )


def _dynamics(margins: Margins) -> Iterator[Claim]:
    for other, section in (("control", "3.3"), ("matched_control", "ours")):
        words = schema.ROLE_NAMES[other]
        yield _below(
            f"learning_{other}",
            section,
            f"Students learn faster than {words}s: lower validation force RMSE at equal epoch "
            "(ratio)",
            learning_ratio("student", other),
        )
    yield Claim(
        "learning_constant",
        "3.3",
        "The factor to the controls is roughly constant over the training (late ratio over "
        f"early, within {margins.constant:.0%})",
        1 / (1 + margins.constant),
        1 + margins.constant,
        learning_drift("student", "control"),
    )


def _cost() -> Iterator[Claim]:
    for cost, words in (("time", "Time per MD step"), ("memory", "Memory")):
        for backend in schema.BACKENDS:
            yield Claim(
                f"{cost}_with_size_{backend}",
                "3.4",
                f"{words} per atom grows with the number of weights ({backend}; exponent)",
                0.0,
                math.inf,
                cost_slope(cost, backend),
            )


def _born_again(margins: Margins) -> Iterator[Claim]:
    for target in ("force", "energy"):
        variable = f"{target}_rmse"
        yield Claim(
            f"same_size_{target}",
            "3.5",
            f"With the static loss, a student of the teacher's size has a comparable {target} "
            f"RMSE (ratio, within {margins.comparable:.0%})",
            1 / (1 + margins.comparable),
            1 + margins.comparable,
            error_ratio(variable, "same_size_student", "teacher"),
        )
    for target in ("force", "energy"):
        variable = f"{target}_rmse"
        yield _below(
            f"born_again_{target}_teacher",
            "3.5",
            f"The Born-Again student has a lower {target} RMSE than its teacher (ratio)",
            error_ratio(variable, "born_again", "teacher"),
            PAPER[f"born_again_{variable}"][0] / PAPER[f"teacher_{variable}"][0],
        )
        yield _below(
            f"born_again_{target}_control",
            "ours",
            f"... and than its own control, trained on the same schedule without labels "
            f"({target}, ratio)",
            error_ratio(variable, "born_again", "born_again_control"),
        )


def audit(
    found: Mapping[str, xr.Dataset] | str | os.PathLike[str], margins: Margins = DEFAULT
) -> xr.Dataset:
    """Judge every claim, and list every choice that the paper leaves open.

    Parameters
    ----------
    found
        Result Datasets by kind (accuracy, history, speed, rdf, data), or a results folder.
    margins
        What "minimal", "comparable" and "constant" mean.

    Returns
    -------
    Dataset of kind ``claims``.
    """
    if not isinstance(found, Mapping):
        parts = {kind: results.collect(found, kind) for kind in (*_KINDS, "data")}
        found = {kind: ds for kind, ds in parts.items() if ds is not None}
    rows = [_row(claim, found) for claim in claims(margins)]
    columns = {name: ("claim", [row[name] for row in rows]) for name in rows[0]}
    ds = xr.Dataset(columns).set_coords("claim")
    open_points = choices(found)
    return schema.describe(ds.merge(open_points), "claims")


def _row(claim: Claim, found: Results) -> dict[str, str | float | int]:
    finding = find(claim.measure, found)
    interval = finding.interval
    judged = verdict(interval, claim.low, claim.high)
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
        "reason": _reason(claim, finding, judged, found),
    }


def _reason(claim: Claim, finding: Finding, judged: str, found: Results) -> str:
    """Grounds of the number, why the verdict, and why ours differs from the paper's."""
    interval, parts = finding.interval, [finding.grounds]
    if judged == "not measured":
        return finding.grounds
    if not np.isfinite(interval.low):
        parts.append(f"{interval.n} run{'s' if interval.n != 1 else ''} give no interval")
    elif judged == "not decided":
        limit = next(x for x in (claim.low, claim.high) if interval.low <= x <= interval.high)
        parts.append(f"the interval of {interval.n} reaches across {limit:.3g}")
    if np.isfinite(finding.noise[0]):
        low, high = finding.noise
        parts.append(f"the test frames alone move it from {low:.3g} to {high:.3g}")
    if np.isfinite(claim.paper) and np.isfinite(interval.low):
        inside = interval.low <= claim.paper <= interval.high
        place = "inside" if inside else "outside"
        parts.append(f"the paper's {claim.paper:.3g} lies {place} the interval")
    parts += _confound(claim, interval, found)
    return "; ".join(parts)


def _confound(claim: Claim, interval: Interval, found: Results) -> list[str]:
    """Share of a gain over the control that the force weight alone brings."""
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
    text = f"the loss weights without the labels give {alone.value:.3g}"
    if interval.value < 1 and alone.value < 1:
        text += f", {math.log(alone.value) / math.log(interval.value):.0%} of the gain"
    return [text]
