"""The privacy statement in the pages' design, in the reader's language: its key sentences, then the whole of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from client.agreements import Agreement
from client.pages.app import Pages
from client.pages.faults import attempt
from client.pages.merchant import Merchant
from client.pages.numbers import small, up
from client.policy import MERCHANT_COUNTS
from client.spending import Spending
from client.statement import EXAMPLE_ODDS
from client.statement_page import MerchantStatement, latest_plan, merchant_statement, statement_html
from web.charts import Chart, Series
from web.sessions import Session
from web.site import language_of
from web.words import Phrase, phrase


def routes(pages: Pages) -> list[Route]:
    """The page, and the one that prints well."""

    def show(request: Request, session: Session) -> Response:
        found = attempt(lambda: statement_of(pages.merchant))
        statement = found.value
        return pages.page(
            request,
            session,
            "privacy.html.j2",
            found=found,
            whole=statement.paragraphs(language_of(request)) if statement else (),
            key=key_sentences(statement) if statement else (),
            chart=_shops(statement) if statement else None,
        )

    def printable(request: Request, _session: Session) -> Response:
        """As a file: it brings its own style, which no page of ours may."""
        statement = statement_of(pages.merchant)
        headers = {"Content-Disposition": f'attachment; filename="privacy-statement-{statement.made}.html"'}
        text = statement_html(statement, language_of(request))
        return Response(text, media_type="text/html; charset=utf-8", headers=headers)

    return [pages.shows("/privacy", show), pages.shows("/privacy/statement.html", printable)]


def statement_of(merchant: Merchant) -> MerchantStatement:
    """The statement about the plan charged last, as `pp-client statement` makes it.

    Raises:
        ConfigError: no plan was offered yet, or the one charged last is no longer known.
        AgreementsError, LedgerError: the stores cannot vouch for what they hold.
    """
    spending: Spending = merchant.spending()
    offered: Sequence[Agreement] = merchant.agreements()[::-1]
    return merchant_statement(merchant.settings, latest_plan(offered, spending), spending)


def key_sentences(statement: MerchantStatement) -> tuple[tuple[Phrase, Phrase], ...]:
    """Headings and sentences, each with its numbers; they say less than the whole statement, and nothing else."""
    promise = statement.promise
    epsilon, delta = promise.plan_epsilon[1], small(promise.delta)
    found = [(phrase("privacy.who"), phrase("privacy.who_text"))]
    if not promise.private:
        found.insert(0, (phrase("privacy.nothing"), phrase("privacy.nothing_text")))
    else:
        factor = math.exp(min(epsilon, 700.0))
        after = EXAMPLE_ODDS * factor / (1 - EXAMPLE_ODDS + EXAMPLE_ODDS * factor)
        found += [
            (
                phrase("privacy.promise"),
                phrase(
                    "privacy.promise_text",
                    plan=promise.plan_id,
                    rounds=promise.rounds,
                    epsilon=up(epsilon),
                    delta=delta,
                    two=up(promise.plan_epsilon[2]),
                ),
            ),
            (
                phrase("privacy.meaning"),
                phrase(
                    "privacy.meaning_text",
                    factor=f"{math.ceil(factor * 10) / 10:,.1f}" if factor < 1e6 else "1,000,000+",
                    after=f"{min(100.0, math.ceil(after * 1000) / 10):g}",
                    odds=f"{1 / promise.delta:,.0f}",
                ),
            ),
        ]
    found += [
        (
            phrase("privacy.charged"),
            phrase(
                "privacy.charged_text",
                charged=statement.charged_rounds,
                rounds=promise.rounds,
                epsilon=up(statement.charged_epsilon),
                delta=delta,
                spent=up(statement.spent),
                budget=up(statement.budget),
                ledger_delta=small(statement.delta),
            ),
        ),
        (
            phrase("privacy.leaves"),
            phrase("privacy.leaves_sum_text" if promise.secure_sum else "privacy.leaves_text"),
        ),
        (phrase("privacy.assumed"), phrase("privacy.assumed_text")),
        (phrase("privacy.uncovered"), phrase("privacy.uncovered_text")),
    ]
    return tuple(found)


def _shops(statement: MerchantStatement) -> Chart | None:
    promise = statement.promise
    if not promise.private:
        return None
    return Chart(
        kind="bar",
        title=phrase("privacy.chart", delta=small(promise.delta)),
        x=phrase("plan.shops"),
        y=phrase("budget.epsilon"),
        categories=tuple(str(count) for count in MERCHANT_COUNTS),
        series=(
            Series(label=phrase("privacy.promised"), values=tuple(promise.plan_epsilon.values())),
            Series(label=phrase("privacy.spent_so_far"), values=tuple(promise.spent_epsilon.values())),
        ),
        kind_of_value="epsilon",
    )
