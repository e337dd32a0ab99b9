"""One round's messages out and the replies back, by a deadline that no merchant and no network can move."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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
OBJECTS_A_TURN = 24  # then it is another reply's turn; enough for the largest message that `to_record` makes
MAX_OBJECTS = 2 * MAX_ARRAYS + 16  # an array is two objects, and there are a few records around them
MAX_BYTES = MAX_ARRAY_BYTES + 2**22
PARTS_BYTES = MAX_BYTES  # of parts kept between the turns of replies, all of them together
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds before an object that was not there is asked for again
ASK_AGAIN_SECONDS = 10.0  # for a node that answered with an error to come back
POLL_SHARE = 4  # a pause is at least this many times as long as the poll before it
NODES_SECONDS = 1.0

log = logging.getLogger(__name__)


def exchange(
    grid: Grid, messages: Iterable[Message], *, timeout: float, poll_seconds: float = 0.25
) -> Iterator[Message]:
    """The replies as they come, until all have or `timeout` seconds after the first was asked for.

    At most one reply to each message, each of them naming it. On Flower's own Grid nobody can hold up another's reply
    or the end: a reply whose parts never come, or are too many, counts as an error of its sender, and while the
    SuperLink is away, what has come counts. A node that answered with an error is asked once more where half of the
    time is left and it is connected within `ASK_AGAIN_SECONDS`: the task is the same, so what it has paid for comes
    back. No more than a few replies are in memory, however many nodes there are: as soon as those are waiting to be
    taken, no other is fetched.

    Any other Grid sends and receives as it does by itself.

    Args:
        messages: one to a node; sent when the first reply is asked for.
        poll_seconds: between two looks for replies; longer where looking takes the SuperLink long.

    Raises:
        RunNotRunningException: the run was stopped.
    """
    sent = list(messages)
    if isinstance(grid, HttpGrid):
        yield from _Exchange(grid, sent, timeout=timeout, poll_seconds=poll_seconds).replies()
    else:
        yield from grid.send_and_receive(sent, timeout=timeout)


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
    objects: list[str]
    missing: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)
    kept_bytes: int = 0  # of `contents`, between two turns
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
        self._changed = threading.Condition(self._lock)  # a reply came or was taken, or it is over
        self._asked: dict[str, Message] = {}  # by message id, the first message to each node
        self._open: set[str] = set()  # those without a final reply
        self._pending: dict[str, str] = {}  # message id that a reply may name -> id of the first message
        self._again: dict[str, Message] = {}  # error replies of nodes that may be asked once more
        self._again_until: dict[str, float] = {}
        self._asked_again: set[str] = set()
        self._ready: deque[Message] = deque()  # to be taken
        self._kept_bytes = 0
        self._work: queue.SimpleQueue[_Fetch] = queue.SimpleQueue()
        self._parked: list[_Fetch] = []
        self._nodes_at = 0.0

    def replies(self) -> Iterator[Message]:
        if not self._messages:
            return
        for target in [self._pump, *[self._fetcher] * FETCHERS]:
            threading.Thread(target=self._guarded, args=(target,), daemon=True).start()
        try:
            while self._one_is_ready():
                yield self._take()
        finally:
            self._end()
        with self._lock:
            never_asked_again = list(self._again.values())
        yield from never_asked_again

    def _one_is_ready(self) -> bool:
        """Waits for the next reply; False where there will be none."""
        with self._changed:
            left = self._deadline - time.monotonic()
            self._changed.wait_for(lambda: self._ready or self._over.is_set(), timeout=left)
            if self._failure is not None:
                raise self._failure
            return bool(self._ready)

    def _take(self) -> Message:
        with self._changed:
            self._changed.notify_all()
            return self._ready.popleft()

    def _end(self) -> None:
        with self._changed:
            self._over.set()
            self._changed.notify_all()

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            if not self._over.is_set():
                self._failure = error
                self._end()

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
            fetch = _Fetch(asked=asked, reply_id=reply.metadata.message_id, objects=objects, missing=list(objects))
            if len(objects) > MAX_OBJECTS:
                self._unusable(fetch)
            else:
                self._work.put(fetch)

    def _fetcher(self) -> None:
        while not self._over.is_set():
            try:
                if self._has_room():
                    self._advance(self._work.get(timeout=self._poll_seconds))
            except queue.Empty:
                continue

    def _has_room(self) -> bool:
        """Waits while enough replies are waiting to be taken."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._ready) < FETCHERS, timeout=self._poll_seconds)

    def _advance(self, fetch: _Fetch) -> None:
        """One turn of a reply: some objects, and then it is done, hopeless, parked or at the end of the queue."""
        self._unkeep(fetch)
        size = sum(map(len, fetch.contents.values()))
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
            size += len(response.object_content)
            if size > MAX_BYTES:
                self._unusable(fetch)
                return
            fetch.contents[fetch.missing.pop()] = response.object_content
        if fetch.missing:
            self._keep(fetch)
            self._work.put(fetch)
        else:
            self._complete(fetch)

    def _keep(self, fetch: _Fetch) -> None:
        """What has come of it waits for its next turn; where others' parts take all the room, it begins anew then."""
        size = sum(map(len, fetch.contents.values()))
        with self._lock:
            if self._kept_bytes + size <= PARTS_BYTES:
                self._kept_bytes += size
                fetch.kept_bytes = size
                return
        fetch.contents.clear()
        fetch.missing = list(fetch.objects)

    def _unkeep(self, fetch: _Fetch) -> None:
        with self._lock:
            self._kept_bytes -= fetch.kept_bytes
            fetch.kept_bytes = 0

    def _complete(self, fetch: _Fetch) -> None:
        self._confirm(fetch)
        try:
            check_unpacked_size(fetch.contents)
            message = cast(Message, inflate_object_from_contents(fetch.reply_id, fetch.contents))
        except Exception as error:  # whatever a merchant can put together
            log.warning("reply unreadable", extra={"error": type(error).__name__})
            message = self._error_for(fetch.asked)
        fetch.contents.clear()
        self._came(fetch.asked, message)

    def _park(self, fetch: _Fetch) -> None:
        self._keep(fetch)
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
        fetch.contents.clear()
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

    def _error_for(self, asked: str, code: int = ErrorCode.MESSAGE_UNAVAILABLE) -> Message:
        return Message(Error(code), reply_to=self._asked[asked])

    def _came(self, asked: str, message: Message) -> None:
        if message.has_error():
            message = self._error_for(asked, message.error.code)  # its text could be long, and nobody reads it
        message.metadata.__dict__["_reply_to_message_id"] = asked  # also where it replies to the second asking
        with self._changed:
            now = time.monotonic()
            if self._over.is_set() or now > self._deadline:
                return
            until = self._again_until.setdefault(asked, min(now + ASK_AGAIN_SECONDS, self._half_time))
            if message.has_error() and asked not in self._asked_again and now < until:
                self._again[asked] = message
                return
            self._again.pop(asked, None)
            self._ready.append(message)
            self._changed.notify_all()
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
        if not self._open:
            self._end()


def _log_unreached(error: httpx.HTTPError) -> None:
    log.warning("superlink not reached", extra={"error": type(error).__name__})
