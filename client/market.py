"""The federation's quantiles from the platform: kept as they were signed, only if they were, and never older ones."""

from __future__ import annotations

from pathlib import Path

from agreement.market import Statement, check_later, read_statement, verify_statement
from agreement.signing import VerifyKey
from client.platform import PlatformClient
from daemons.files import write_private

REPORT = "market"  # the one of insight that rests on the quantiles


def pull_market(client: PlatformClient, key: VerifyKey, path: Path) -> Statement | None:
    """What the platform says of its quantiles now, kept at `path` in place of what it said before.

    Returns:
        None where the platform says nothing; what is kept stays.

    Raises:
        SignatureError: it is not what the platform signed, or earlier than what is kept, which stays; or what is kept
            was changed.
        PlatformError, RefusedError: the platform was not reached, or does not answer this merchant.
    """
    data = client.market()
    if data is None:
        return None
    statement = verify_statement(data, key)
    kept = read_statement(path, key)
    if kept is not None:
        check_later(statement, kept)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, data, replace=True)
    return statement


def reports_on_it(insight: Path) -> int:
    """How many reports on the market position there are. They are the merchant's own, and stay what they were."""
    from client.insight.store import cutoff_folder, cutoffs_in  # which needs Arrow; most pulls do without it

    return sum((cutoff_folder(insight, cutoff) / f"{REPORT}.json").exists() for cutoff in cutoffs_in(insight))
