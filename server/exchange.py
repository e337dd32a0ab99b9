"""One round's messages out and the replies back, by a deadline that no merchant and no network can move."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

import httpx
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.grid.http_grid import HttpGrid

from flower_edge.bounds import check_unpacked_size
from flower_edge.records import MAX_ARRAY_BYTES, MAX_ARRAYS

FETCHERS = 4  # the SuperLink is one process; more do not make it faster
OBJECTS_A_TURN = 16  # then it is another reply's turn
MAX_OBJECTS = 2 * MAX_ARRAYS + 16  # an array is two objects, and there are a few records around them
MAX_BYTES = MAX_ARRAY_BYTES + 2**22
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds before an object that was not there is asked for again
ASK_AGAIN_SECONDS = 10.0  # for a node that answered with an error to come back
POLL_SHARE = 4  # a pause is at least this many times as long as the poll before it
NODES_SECONDS = 1.0

log = logging.getLogger(__name__)


def exchange(grid: Grid, messages: Iterable[Message], *, timeout: float, poll_seconds: float = 0.25) -> list[Message]:
    """The replies that were complete `timeout` seconds after the call, or as soon as all are.

    At most one reply to each message, each of them naming it. On Flower's own Grid nobody can hold up another's reply
    or the end: a reply whose parts never come, or are too many, counts as an error of its sender, and while the
    SuperLink is away, what has come counts. A node that answered with an error is asked once more where half of the
    time is left and it is connected within `ASK_AGAIN_SECONDS`: the task is the same, so what it has paid for comes
    back.

    Any other Grid sends and receives as it does by itself.

    Args:
        messages: one to a node.
        poll_seconds: between two looks for replies; longer where looking takes the SuperLink long.

    Raises:
        RunNotRunningException: the run was stopped.
    """
    sent = list(messages)
    if not isinstance(grid, HttpGrid):
        return list(grid.send_and_receive(sent, timeout=timeout))
    return _Exchange(grid, sent, timeout=timeout, poll_seconds=poll_seconds).replies()


def node_ids(grid: Grid, *, timeout: float) -> list[int]:
    """The connected nodes; [] where Flower's own Grid cannot reach the SuperLink within `timeout` seconds.

    Raises:
        RunNotRunningException: the run was stopped.
    """
    if not isinstance(grid, HttpGrid):
        return list(grid.get_node_ids())
    results: queue.SimpleQueue[list[int] | BaseException] = queue.SimpleQueue()

    def ask() -> None:
        try:
            results.put(list(grid.get_node_ids()))
        except BaseException as error:  # Flower's "the run was stopped" is no Exception
            results.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        result = results.get(timeout=timeout)
    except queue.Empty:
        return []
    if isinstance(result, httpx.HTTPError):
        _log_unreached(result)
        return []
    if isinstance(result, BaseException):
        raise result
    return result


@dataclass(kw_only=True)
class _Fetch:
    """A reply whose objects are being fetched."""

    asked: str
    reply_id: str
    missing: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)
    pause: float = FIRST_PAUSE
    due: float = 0.0


class _Exchange:
    """Flower's Grid blocks while the SuperLink is away, and in the order of the replies while parts of one are missing.
    So it is called in threads that the end of the round leaves behind: one that pushes, polls and asks again, and a few
    that fetch the objects of replies in turns."""

    def __init__(self, grid: HttpGrid, messages: list[Message], *, timeout: float, poll_seconds: float) -> None:
        self._grid, self._messages, self._poll_seconds = grid, messages, poll_seconds
        self._deadline = time.monotonic() + timeout
        self._half_time = self._deadline - timeout / 2
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._asked: dict[str, Message] = {}  # by message id, the first message to each node
        self._open: set[str] = set()  # those without a final reply
        self._pending: dict[str, str] = {}  # message id that a reply may name -> id of the first message
        self._again: dict[str, Message] = {}  # error replies of nodes that may be asked once more
        self._again_until: dict[str, float] = {}
        self._asked_again: set[str] = set()
        self._replies: dict[str, Message] = {}
        self._work: queue.SimpleQueue[_Fetch] = queue.SimpleQueue()
        self._parked: list[_Fetch] = []
        self._nodes_at = 0.0

    def replies(self) -> list[Message]:
        if not self._messages:
            return []
        for target in [self._pump, *[self._fetcher] * FETCHERS]:
            threading.Thread(target=self._guarded, args=(target,), daemon=True).start()
        self._over.wait(self._deadline - time.monotonic())
        self._over.set()
        if self._failure is not None:
            raise self._failure
        with self._lock:
            return list((self._again | self._replies).values())

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            self._failure = error
            self._over.set()

    def _pump(self) -> None:
        while not self._asked and not self._over.is_set():
            self._attempt(self._push)
            if not self._asked:
                self._over.wait(self._poll_seconds)
        while not self._over.is_set():
            began = time.monotonic()
            self._attempt(self._poll)
            self._unpark()
            self._attempt(self._ask_again)
            self._over.wait(max(self._poll_seconds, POLL_SHARE * (time.monotonic() - began)))

    def _attempt(self, call: Callable[[], object]) -> None:
        try:
            call()
        except httpx.HTTPError as error:
            _log_unreached(error)

    def _push(self) -> None:
        pushed = set(self._grid.push_messages(self._messages))  # None for a node that is gone
        with self._lock:
            self._asked = {message.metadata.message_id: message for message in self._messages}
            self._open = set(self._asked) & pushed
            self._pending = {asked: asked for asked in self._open}
        self._finish()

    def _poll(self) -> None:
        with self._lock:
            pending = dict(self._pending)
        if not pending:
            return
        response = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=pending))
        for reply, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            with self._lock:
                asked = self._pending.pop(reply.metadata.reply_to_message_id, None)
            if asked is None:
                continue
            objects = list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))
            fetch = _Fetch(asked=asked, reply_id=reply.metadata.message_id, missing=objects)
            if len(objects) > MAX_OBJECTS:
                self._unusable(fetch)
            else:
                self._work.put(fetch)

    def _fetcher(self) -> None:
        while not self._over.is_set():
            try:
                fetch = self._work.get(timeout=self._poll_seconds)
            except queue.Empty:
                continue
            self._advance(fetch)

    def _advance(self, fetch: _Fetch) -> None:
        """One turn of a reply: a few objects, and then it is done, hopeless, parked or at the end of the queue."""
        for _ in range(min(OBJECTS_A_TURN, len(fetch.missing))):
            try:
                response = self._grid._runtime_client.PullObject(
                    PullObjectRequest(node=self._grid.node, run_id=self._grid.run.run_id, object_id=fetch.missing[-1])
                )
            except httpx.HTTPError:
                self._park(fetch)
                return
            if not response.object_found:
                self._unusable(fetch)
                return
            if not response.object_available:
                self._park(fetch)
                return
            fetch.contents[fetch.missing.pop()] = response.object_content
        if sum(map(len, fetch.contents.values())) > MAX_BYTES:
            self._unusable(fetch)
        elif fetch.missing:
            self._work.put(fetch)
        else:
            self._complete(fetch)

    def _complete(self, fetch: _Fetch) -> None:
        self._confirm(fetch)
        try:
            check_unpacked_size(fetch.contents)
            message = cast(Message, inflate_object_from_contents(fetch.reply_id, fetch.contents))
        except Exception as error:  # whatever a merchant can put together
            log.warning("reply unreadable", extra={"error": type(error).__name__})
            message = self._error_for(fetch.asked)
        self._came(fetch.asked, message)

    def _park(self, fetch: _Fetch) -> None:
        fetch.due, fetch.pause = time.monotonic() + fetch.pause, min(2 * fetch.pause, LONGEST_PAUSE)
        with self._lock:
            self._parked.append(fetch)

    def _unpark(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [fetch for fetch in self._parked if fetch.due <= now]
            self._parked = [fetch for fetch in self._parked if fetch.due > now]
        for fetch in due:
            self._work.put(fetch)

    def _unusable(self, fetch: _Fetch) -> None:
        self._confirm(fetch)
        self._came(fetch.asked, self._error_for(fetch.asked))

    def _confirm(self, fetch: _Fetch) -> None:
        """The SuperLink may forget the reply. Where it does not hear so, it forgets it with the run."""
        self._attempt(
            lambda: self._grid._runtime_client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=self._grid.node, run_id=self._grid.run.run_id, message_object_id=fetch.reply_id
                )
            )
        )

    def _error_for(self, asked: str) -> Message:
        return Message(Error(ErrorCode.MESSAGE_UNAVAILABLE), reply_to=self._asked[asked])

    def _came(self, asked: str, message: Message) -> None:
        message.metadata.__dict__["_reply_to_message_id"] = asked  # also where it replies to the second asking
        with self._lock:
            now = time.monotonic()
            until = self._again_until.setdefault(asked, min(now + ASK_AGAIN_SECONDS, self._half_time))
            if message.has_error() and asked not in self._asked_again and now < until:
                self._again[asked] = message
            else:
                self._again.pop(asked, None)
                self._replies[asked] = message
                self._open.discard(asked)
        self._finish()

    def _ask_again(self) -> None:
        with self._lock:
            waiting = dict(self._again)
        if not waiting:
            return
        now = time.monotonic()
        for asked, message in waiting.items():
            if now >= self._again_until[asked]:
                self._came(asked, message)
        if now >= self._nodes_at:
            self._nodes_at = now + NODES_SECONDS
            connected = set(self._grid.get_node_ids())
            for asked in waiting:
                if asked in self._again and self._asked[asked].metadata.dst_node_id in connected:
                    self._push_again(asked)

    def _push_again(self, asked: str) -> None:
        first = self._asked[asked]
        second = Message(
            first.content,
            first.metadata.dst_node_id,
            first.metadata.message_type,
            ttl=max(1.0, self._deadline - time.monotonic()),
            group_id=first.metadata.group_id,
        )
        log.info("asked again", extra={"node": first.metadata.dst_node_id})
        if list(self._grid.push_messages([second])) != [second.metadata.message_id]:
            return
        with self._lock:
            self._asked_again.add(asked)
            self._pending[second.metadata.message_id] = asked
            self._again.pop(asked)

    def _finish(self) -> None:
        with self._lock:
            if not self._open:
                self._over.set()


def _log_unreached(error: httpx.HTTPError) -> None:
    log.warning("superlink not reached", extra={"error": type(error).__name__})
