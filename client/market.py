"""The federation's quantiles from the platform: kept as they were signed, and only if they were."""

from __future__ import annotations

from pathlib import Path

from agreement.market import Market, verify_market
from agreement.signing import VerifyKey
from client.platform import PlatformClient
from daemons.files import write_private


def pull_market(client: PlatformClient, key: VerifyKey, path: Path) -> Market | None:
    """The quantiles that the platform publishes now, kept at `path` in place of those before them.

    Returns:
        None where the platform publishes none; what is kept stays.

    Raises:
        SignatureError: they are not what the platform signed; what is kept stays.
        PlatformError, RefusedError: the platform was not reached, or does not answer this merchant.
    """
    data = client.market()
    if data is None:
        return None
    market = verify_market(data, key)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, data, replace=True)
    return market
