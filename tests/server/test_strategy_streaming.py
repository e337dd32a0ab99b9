"""Replies that come one after the other: in any order the same model, and none is kept."""

import random
import weakref

import numpy as np
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from flower_edge.records import to_record, wire_from_record
from pp_model.protocol import Release, Task, Wire, task_from_wire
from server.rounds import initial_state
from server.strategy import PurchasePowerStrategy
from simulations.grid import InProcessGrid
from tests.support.fake_merchants import TRAINABLE, filled
from tests.support.plans import tiny_plan, tiny_server


def release(task: Task, value: float) -> Wire:
    return Release(task=task.fingerprint, update=filled(value)).to_wire()


class StreamingGrid(Grid):
    """Merchants that answer one after the other, as their replies are asked for.

    Args:
        answer: the reply's wire to a task, by node.
        order: of the nodes' answers.
    """

    run = None

    def __init__(self, answer, nodes, order):
        self._answer, self._nodes, self._order = answer, nodes, order
        self.made, self.most_alive = [], 0

    def get_node_ids(self):
        return self._nodes

    def send_and_receive(self, messages, *, timeout=None):
        asked = {message.metadata.dst_node_id: message for message in messages}
        for node, message in asked.items():
            message.metadata.__dict__["_message_id"] = f"to-{node}"
        for node in self._order(asked):
            yield self._reply(asked[node])

    def _reply(self, message):
        task = task_from_wire(wire_from_record(message.content))
        reply = Message(to_record(self._answer(task, message.metadata.dst_node_id)), reply_to=message)
        self.made += [weakref.ref(reply), weakref.ref(reply.content["arrays"])]
        self.most_alive = max(self.most_alive, sum(ref() is not None for ref in self.made))
        return reply

    def set_run(self, run): ...

    def create_message(self, *args, **kwargs): ...

    def push_messages(self, messages): ...

    def pull_messages(self, message_ids): ...


def streamed(answer, merchants: int, *, order=list, **server) -> tuple[StreamingGrid, PurchasePowerStrategy]:
    """A round of so many merchants whose replies come in this order."""
    plan = tiny_plan(rounds=1, update_clip_norm=1e20, server=tiny_server(**server))
    strategy = PurchasePowerStrategy(
        plan=plan,
        state=initial_state(plan, filled(0.0)),
        trainable=TRAINABLE,
        record=lambda *_: None,
        save=lambda _: None,
    )
    with InProcessGrid(ClientApp(), node_configs={}):
        grid = StreamingGrid(answer, range(merchants), order)
        strategy.start(grid)
    return grid, strategy


def test_replies_that_come_in_any_order_train_the_model_of_those_that_come_in_order():
    values = [0.1, 1e17, 3.0, -1e17, 0.7, -7.0, 2.0, 0.3]

    def model(order):
        _, strategy = streamed(lambda task, node: release(task, values[node]), len(values), order=order)
        return strategy.state.arrays["head.bias"].tobytes()

    in_order = model(list)
    assert in_order == filled(np.float32(-4.0 / 8))["head.bias"].tobytes()  # what 1e17 has swallowed is gone
    assert all(model(lambda asked, s=seed: random.Random(s).sample(list(asked), 8)) == in_order for seed in range(20))


def test_a_reply_is_forgotten_when_it_is_added_however_many_there_are():
    few, _ = streamed(lambda task, _: release(task, 1.0), 10)
    many, strategy = streamed(lambda task, _: release(task, 1.0), 1000)
    assert strategy.state.arrays["head.bias"].tolist() == [1.0] * 3
    assert few.most_alive == many.most_alive == 2  # the message that just came, and the arrays in it
