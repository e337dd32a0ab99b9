"""The merchant's Flower ClientApp: translate, answer, translate. It knows training tasks and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.shop import Shop
from client.task import answer
from flower_edge.records import anchor_from_record, to_record, wire_from_record, with_anchor
from pp_model.errors import ProtocolError
from pp_model.protocol import Anchor, Refusal, RefusalCode, Reply


def make_client_app(shop_for: Callable[[Context], Shop]) -> ClientApp:
    """The app that Flower calls; `shop_for` finds the merchant from its own node configuration."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        known: Anchor | None = None
        shop: Shop | None = None
        try:
            known = anchor_from_record(message.content)
            wire = wire_from_record(message.content)
            shop = shop_for(context)
            reply: Reply | Refusal = answer(wire, shop, anchor=known)
        except ProtocolError:
            reply = Refusal(task="", code=RefusalCode.BAD_TASK)
        except Exception:
            # Flower would send the text of an exception to the platform; a code says no more than it must.
            reply = Refusal(task="", code=RefusalCode.UNAVAILABLE)
        return Message(with_anchor(to_record(reply.to_wire()), _anchor(shop, known)), reply_to=message)

    return app


def _anchor(shop: Shop | None, known: Anchor | None) -> Anchor | None:
    """What the ledger can vouch for: `None` if it cannot be read, or contradicts what the platform knows of it."""
    try:
        if shop is None:
            return None
        if known is not None:
            shop.ledger.check_anchor(known)
        return shop.ledger.anchor
    except Exception:
        return None
