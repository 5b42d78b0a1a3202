"""The paper's claims: its statements, the evidence in the results, and the verdicts."""

from kdlib.claims.audit import audit, verdict
from kdlib.claims.choices import choices
from kdlib.claims.index import headlines, index, tally
from kdlib.claims.paper import PAPER, Claim, Margins, claims
from kdlib.claims.variants import variants_table

__all__ = [
    "PAPER",
    "Claim",
    "Margins",
    "audit",
    "choices",
    "claims",
    "headlines",
    "index",
    "variants_table",
    "tally",
    "verdict",
]
