"""Flower's own Grid, over a SuperLink in this process with merchants behind it that answer as a test says."""

# ruff: noqa: N802  (the methods of the SuperLink are Flower's)

from __future__ import annotations

import time

from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, PullObjectResponse, PushObjectResponse
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import GetNodesResponse, PullAppMessagesResponse, PushAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from server.exchange import exchange

FAST = 0.01  # seconds between two looks


class Link:
    """What Flower's Grid talks to: the SuperLink and, behind it, one merchant per node.

    Args:
        answer: a merchant's reply to a message, None for none; called in the order of arrival.
        nodes: those connected.
    """

    def __init__(self, answer, *, nodes=range(100)):
        self.answer, self.nodes = answer, list(nodes)
        self.pushed, self.polls, self.confirmed = [], 0, []
        self.objects, self.waiting, self.missing, self.gone = {}, {}, set(), set()

    def PushMessages(self, request):
        for proto in request.messages_list:
            self.waiting[proto.metadata.message_id] = proto
        trees = request.message_object_trees
        objects = [node.object_id for tree in trees for node in iterate_object_tree(tree)]
        ids = [m.metadata.message_id if m.metadata.dst_node_id in self.nodes else "" for m in request.messages_list]
        return PushAppMessagesResponse(message_ids=ids, objects_to_push=objects, session_id="s")

    def PushObject(self, request):
        self.objects[request.object_id] = request.object_content
        return PushObjectResponse(stored=True)

    def PullMessages(self, request):
        self.polls += 1
        response = PullAppMessagesResponse()
        for asked in set(request.message_ids) & set(self.waiting):
            message = inflate_object_from_contents(asked, dict(self.objects))
            message.metadata.__dict__["_message_id"] = asked
            reply = self.answer(message.metadata.dst_node_id, message)
            if reply is None:
                continue
            del self.waiting[asked]
            reply.metadata.__dict__["_message_id"] = reply.object_id
            contents = {name: each.deflate() for name, each in get_all_nested_objects(reply).items()}
            self.objects |= {name: getattr(reply, "forged", {}).get(name, data) for name, data in contents.items()}
            self.missing |= getattr(reply, "missing", set())
            response.messages_list.append(message_to_proto(remove_content_from_message(reply)))
            response.message_object_trees.append(getattr(reply, "tree", None) or get_object_tree(reply))
        return response

    def PullObject(self, request):
        found = request.object_id in self.objects and request.object_id not in self.gone
        available = found and request.object_id not in self.missing
        content = self.objects[request.object_id] if available else b""
        return PullObjectResponse(object_found=found, object_available=available, object_content=content)

    def ConfirmMessageReceived(self, request):
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()

    def GetNodes(self, request):
        return GetNodesResponse(nodes=[NodeInfo(node_id=node) for node in self.nodes])

    def close(self):
        pass


def grid_over(link) -> HttpGrid:
    grid = HttpGrid(token="token")
    grid.set_run(Run.create_empty(1))
    grid._client = link
    return grid


def messages_to(*nodes: int) -> list[Message]:
    return [
        Message(RecordDict({"in": ConfigRecord({"task": 7})}), node, MessageType.TRAIN, group_id="3") for node in nodes
    ]


def said(node: int, message: Message, **extra) -> Message:
    """A reply that says who it is from and, in `task`, what it was asked."""
    reply = Message(RecordDict({"out": ConfigRecord({"node": node, **message.content["in"]})}), reply_to=message)
    vars(reply).update(extra)
    return reply


def failed(message: Message) -> Message:
    return Message(Error(ErrorCode.NODE_UNAVAILABLE), reply_to=message)


def exchanged(link, *nodes: int, timeout: float = 5.0) -> tuple[dict[int, Message], float]:
    """Each node's reply, and how long it took."""
    asked, began = messages_to(*nodes), time.monotonic()
    replies = list(exchange(grid_over(link), asked, timeout=timeout, poll_seconds=FAST))
    seconds = time.monotonic() - began
    node_of = {message.metadata.message_id: message.metadata.dst_node_id for message in asked}
    assert len({reply.metadata.reply_to_message_id for reply in replies}) == len(replies)
    return {node_of[reply.metadata.reply_to_message_id]: reply for reply in replies}, seconds


def contents(replies: dict[int, Message]) -> dict[int, tuple]:
    return {n: tuple(r.content["out"].values()) if r.has_content() else r.error.code for n, r in replies.items()}
