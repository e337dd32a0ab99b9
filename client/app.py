"""The merchant's Flower ClientApp: translate, answer, translate. It knows training tasks and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.shop import Shop
from client.task import answer
from flower_edge.records import to_record, wire_from_record
from pp_model.errors import ProtocolError
from pp_model.protocol import Refusal, RefusalCode


def make_client_app(shop_for: Callable[[Context], Shop]) -> ClientApp:
    """The app that Flower calls; `shop_for` finds the merchant from its own node configuration."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        try:
            reply = answer(wire_from_record(message.content), shop_for(context))
        except ProtocolError:
            reply = Refusal(task="", code=RefusalCode.BAD_TASK)
        except Exception:
            # Flower would send the text of an exception to the platform; a code says no more than it must.
            reply = Refusal(task="", code=RefusalCode.UNAVAILABLE)
        return Message(to_record(reply.to_wire()), reply_to=message)

    return app
