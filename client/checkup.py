"""The checks of pp-client doctor, in the order in which their findings help."""

from __future__ import annotations

from collections.abc import Sequence

from client.checks import (
    Check,
    check_configuration,
    check_device,
    check_disk,
    check_files,
    check_node_key,
    check_pinned,
    check_versions,
)
from client.checks_extras import check_extras
from client.checks_platform import check_connection, check_plans, check_registration
from client.checks_shop import check_customers, check_ledger, check_orders, check_period

CHECKS: Sequence[tuple[str, Check]] = (
    ("configuration", check_configuration),
    ("files", check_files),
    ("node key", check_node_key),
    ("plan key", check_pinned),
    ("versions", check_versions),
    ("disk", check_disk),
    ("device", check_device),
    ("platform", check_connection),
    ("registered", check_registration),
    ("orders", check_orders),
    ("customers", check_customers),
    ("reports", check_extras),
    ("period", check_period),
    ("ledger", check_ledger),
    ("plans", check_plans),
)
