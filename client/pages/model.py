"""The model in use: where it comes from, what its card says, and how good it is on the shop's own orders."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agreement.manifest import ModelManifest, check_file, verify_manifest
from client.insight.store import cutoff_folder, cutoffs_in, read_report, reports_in
from client.models import CARD_FILE, MANIFEST_FILE
from client.pages.app import Pages
from client.pages.card import Block, blocks_of
from client.pages.faults import Part, attempt
from client.pages.merchant import Merchant
from client.pages.numbers import up
from client.policy import epsilon_by_merchants
from pp_model.plan import TrainingPlan
from web.report import Report
from web.sessions import Session

QUALITY = "quality"
BESIDE = ("importance", "fairness")  # reports about the model, with pages of their own
_MOST_CARD_BYTES = 200_000


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A model on this machine.

    Attributes:
        pulled: when (UTC).
        own_rounds: rounds of its plan that this merchant was charged for.
    """

    manifest: ModelManifest
    plan: TrainingPlan
    pulled: dt.datetime
    own_rounds: int
    price: str
    card: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A model that was in use before."""

    model_id: int
    sha256: str
    plan_fingerprint: str
    pulled: dt.datetime


def routes(pages: Pages) -> list[Route]:
    """The page."""

    def show(request: Request, session: Session) -> Response:
        merchant = pages.merchant
        return pages.page(
            request,
            session,
            "model.html.j2",
            pulled=attempt(lambda: pulled_model(merchant)),
            earlier=attempt(lambda: earlier_models(merchant)),
            quality=quality_report(merchant),
            beside=BESIDE,
        )

    return [pages.shows("/model", show)]


def pulled_model(merchant: Merchant) -> Pulled | None:
    """The newest model, with its signature, file and card verified again; None where none was pulled.

    Raises:
        SignatureError, ConfigError: see `Merchant.model`.
        LedgerError: the ledger cannot vouch for what was charged.
    """
    model = merchant.model()
    if model is None:
        return None
    place, plan = merchant.model_folders()[0], model.plan
    card = check_file((place / CARD_FILE).read_bytes(), model.manifest.card_sha256, what=f"card in {place}")
    prices = epsilon_by_merchants(plan.events, delta=plan.delta) if plan.dp.noise_multiplier > 0 else {}
    return Pulled(
        manifest=model.manifest,
        plan=plan,
        pulled=_when(place),
        own_rounds=len(merchant.spending().of(plan.fingerprint)),
        price=up(prices[1]) if prices else "∞",
        card=tuple(blocks_of(card[:_MOST_CARD_BYTES].decode("utf-8", "replace"))),
    )


def earlier_models(merchant: Merchant) -> list[Earlier]:
    """The models before it, the newest first.

    Raises:
        SignatureError: one is not what the platform signed.
    """
    found = []
    for place in merchant.model_folders()[1:]:
        manifest = verify_manifest((place / MANIFEST_FILE).read_bytes(), merchant.settings.plan_key)
        found.append(
            Earlier(
                model_id=manifest.model_id,
                sha256=manifest.sha256,
                plan_fingerprint=manifest.plan_fingerprint,
                pulled=_when(place),
            )
        )
    return found


def quality_report(merchant: Merchant) -> Part[Report] | None:
    """The newest report on the model's quality; None where none was made."""
    folder_of_all = merchant.settings.paths.insight
    for cutoff in cutoffs_in(folder_of_all):
        folder = cutoff_folder(folder_of_all, cutoff)
        if QUALITY in reports_in(folder):
            return attempt(lambda: read_report(folder, QUALITY))  # noqa: B023
    return None


def _when(place: Path) -> dt.datetime:
    return dt.datetime.fromtimestamp((place / MANIFEST_FILE).stat().st_mtime, dt.UTC)
