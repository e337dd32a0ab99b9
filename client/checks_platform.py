"""What pp-client doctor looks at, part two: the platform, this merchant's place there, and what it offers."""

from __future__ import annotations

from collections.abc import Iterator

from agreement.node_keys import fingerprint_of
from agreement.offer import DecisionState, Offer, OfferCode, OfferError, check_offer, verify_offer
from client.agreements import Agreement, open_agreements, within_budget
from client.checks import Examination, Finding, SkippedError, count, fault, ok, validity, warning
from client.platform import PlatformClient, RefusedError
from client.policy import check_plan, needs_approval
from client.preflight import check_platform
from client.settings import MerchantSettings
from daemons.files import PrivateFileError
from pp_model.accounting import epsilon_spent
from pp_model.errors import BudgetExceededError, ConfigError, PolicyError

_CLOSE_SECONDS = 5.0


def check_connection(examination: Examination) -> Iterator[Finding]:
    """Port, TLS, the certificate's chain, name and days, and the clock."""
    address = examination.platform.address
    examination.identity = found = check_platform(address, _ca(examination))
    yield ok("platform", f"{address} answers over {found.tls} with a certificate of the pinned authority")
    what = f"the platform's certificate for {', '.join(found.names)}"
    yield validity("certificate", what, found.expires, now=examination.now)
    apart = abs(found.skew_seconds)
    text = f"{apart:.0f} s from the platform's; allowed: 60"
    if apart < _CLOSE_SECONDS:
        yield ok("clock", text)
    else:
        yield warning("clock", f"{text}. Let it be set from the network: timedatectl set-ntp true")


def check_registration(examination: Examination) -> Iterator[Finding]:
    """The platform knows this merchant's key."""
    if examination.identity is None:
        raise SkippedError("the platform has to be reached first")
    try:
        key = examination.node_key()
    except ConfigError:
        raise SkippedError("the node key has to be mended first") from None
    with PlatformClient(address=examination.platform.address, ca_pem=_ca(examination), node_key=key) as client:
        try:
            examination.offers = client.offers()
        except RefusedError as error:
            yield fault("registered", str(error))
            return
    yield ok(
        "registered", f"the platform knows this merchant's key and offers {count(len(examination.offers), 'plan')}"
    )


def check_plans(examination: Examination) -> Iterator[Finding]:
    """What each offered plan would cost, and whether it would be taken."""
    settings = examination.settings
    if examination.offers is None:
        raise SkippedError("the platform has to give its offers first")
    if not examination.offers:
        yield ok("plans", "none is offered now")
    try:
        known = {agreement.offer.id: agreement for agreement in open_agreements(settings).all()}
    except PrivateFileError:
        raise SkippedError("the node key has to be mended first") from None
    for data in examination.offers:
        yield _judged(data, settings, known, examination)


def _judged(data: bytes, settings: MerchantSettings, known: dict[str, Agreement], examination: Examination) -> Finding:
    try:
        offer = verify_offer(data, settings.plan_key)
    except OfferError as error:
        return fault("plans", str(error))
    plan, policy = offer.plan, settings.policy
    epsilon = epsilon_spent(plan.events, delta=policy.delta)
    text = (
        f"plan {plan.plan_id!r} ({offer.id}) costs epsilon {epsilon:.2f} of the budget of {policy.epsilon_budget:.2f} "
        f"for its {plan.rounds} rounds"
    )
    agreement = known.get(offer.id)
    if agreement is not None and agreement.code is OfferCode.REJECTED:
        return ok("plans", f"{text}; you rejected it")
    try:
        _check_offer(offer, settings, known, examination)
        check_plan(plan, policy)
        within_budget(settings)(plan)
    except (OfferError, PolicyError, BudgetExceededError) as error:
        return warning("plans", f"{text}; it would be refused: {error}")
    if agreement is not None and agreement.state is DecisionState.APPROVED:
        return ok("plans", f"{text}; it is approved")
    if needs_approval(plan, policy):
        return ok("plans", f"{text}; it waits for you: pp-client approve {offer.id}")
    return ok("plans", f"{text}; your policy approves it")


def _check_offer(
    offer: Offer, settings: MerchantSettings, known: dict[str, Agreement], examination: Examination
) -> None:
    others = [a.offer for a in known.values() if a.offer.id != offer.id and a.offer.plan.plan_id == offer.plan.plan_id]
    check_offer(
        offer,
        now=examination.now,
        addressee=fingerprint_of(settings.node_key().public_key()),
        newest_serial=max((other.serial for other in others), default=0),
    )


def _ca(examination: Examination) -> str:
    path = examination.paths.ca
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path} cannot be read; take it from the platform's invitation again") from None
