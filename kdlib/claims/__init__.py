"""The paper's claims: what it says, what the results say, and the verdict."""

from kdlib.claims.audit import audit, verdict
from kdlib.claims.choices import choices
from kdlib.claims.paper import PAPER, Claim, Margins, claims

__all__ = ["PAPER", "Claim", "Margins", "audit", "choices", "claims", "verdict"]
