"""What is changed in Flower's SuperNode before it starts: one small function for each thing, with its reason.

Everything here touches Flower's insides; `tests/test_flower_contract_client.py` fails when one of them moves.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from logging import ERROR, WARNING
from types import ModuleType
from typing import Any

import flwr.supernode.fleet_http_connection as fleet
import flwr.supernode.start_client_internal as loop
from flwr.app import Message
from flwr.common.constant import Status, SubStatus
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.proto.task_pb2 import Task
from flwr.supercore import log
from flwr.supercore.exit import register_signal_handlers
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.object_store import ObjectStore
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.servicer.runtime import runtime_handlers as core_runtime_handlers
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.nodestate import nodestate_factory
from flwr.supernode.nodestate.in_memory_nodestate import (
    CLIENT_APP_CRASHED_ERROR,
    InMemoryNodeState,
    MessageEntry,
)
from flwr.supernode.servicer.runtime import runtime_handlers
from flwr.supernode.start_client_internal import _pull_and_store_message, _push_messages

MOST_TIMES_GIVEN = 3  # a task that ends the runner this often is answered with an error: no loop of crashes
NOTHING = Fab(hash_str=hashlib.sha256(b"").hexdigest(), content=b"", verifications={})
_PACES = {
    3: (0.3, 0.7),
    0.5: (0.08, 0.12),
}  # Flower's two waits -> ours, in seconds; drawn, lest merchants march in step


def tighten() -> None:
    """All of the below, once, before SuperNode's `main` runs."""
    fetch_no_bundle_and_tell_no_time()
    open_no_bundle()
    follow_no_redirect()
    look_often()
    take_a_message_or_leave_it()
    answer_before_the_next()
    serve_one_runner()
    end_when_a_thread_ends()
    sign_off_whatever_comes()


def _replace(module: ModuleType, name: str, new: object) -> None:
    """Fails, and SuperNode does not start, where Flower has moved what is to be replaced."""
    if not hasattr(module, name):
        raise RuntimeError(f"this version of Flower has no {module.__name__}.{name}; install the version of the lock")
    setattr(module, name, new)


def fetch_no_bundle_and_tell_no_time() -> None:
    """The platform's bundle and run configuration are never asked for, and no run time of a task is ever sent.

    The run that SuperNode remembers has this merchant's empty bundle, so that all its checks of hashes still hold, no
    configuration, and no kind of task but ClientApp. Stock SuperNode sends the exact seconds that a task took: that
    tells how many customers there are.
    """

    @contextmanager
    def connection(*arguments: Any) -> Iterator[tuple[Any, ...]]:
        with http_request_response(*arguments) as (node_id, receive, send, get_run, _, *others):
            yield node_id, receive, _without_time(send), _without_bundle(get_run), _no_bundle, *others

    _replace(loop, "http_request_response", connection)


def _without_time(
    send: Callable[[Message, ObjectTree, float], tuple[set[str], str]],
) -> Callable[[Message, ObjectTree, float], tuple[set[str], str]]:
    return lambda message, tree, _: send(message, tree, 0.0)


def _without_bundle(get_run: Callable[[int], Run]) -> Callable[[int], Run]:
    def run(run_id: int) -> Run:
        bare = Run.create_empty(run_id)
        bare.series_id = get_run(run_id).series_id  # asked, because it fails for a run that is over
        bare.fab_hash = NOTHING.hash_str
        return bare

    return run


def _no_bundle(_hash: str, _run_id: int) -> Fab:
    return NOTHING


def open_no_bundle() -> None:
    """No run configuration is read from a bundle: that would unpack it."""
    _replace(loop, "get_fused_config_from_fab", lambda _fab, _run: {})


def follow_no_redirect() -> None:
    """The platform cannot send SuperNode's requests, signed headers included, elsewhere or into the shop's network."""
    _replace(fleet, "FleetHttpClient", _StayingClient)


class _StayingClient(FleetHttpClient):
    def __init__(self, base_url: str, **rest: Any) -> None:
        super().__init__(base_url, **rest)
        self._client.follow_redirects = False


def look_often() -> None:
    """Looks for a message about every half second instead of three, and for its parts and the reply every tenth.

    Only the loop's own name `time` is replaced; the rest of the process sleeps as before.
    """
    _replace(loop, "time", _Pace)
    _replace(
        loop, "pull_objects", partial(pull_objects, initial_backoff=0.1, backoff_cap=1.0, max_tries_per_object=None)
    )


class _Pace:
    @staticmethod
    def sleep(seconds: float) -> None:
        time.sleep(random.uniform(*_PACES.get(seconds, (seconds, seconds))))


def take_a_message_or_leave_it() -> None:
    """A message whose run ends while its parts come is forgotten, task and all; one whose parts all came is kept.

    Stock SuperNode forgets it for every failure but the end of the run, which is no `Exception`. The runner would wait
    for the missing parts until it gives up, and answer. And where only its confirmation is lost, stock SuperNode
    forgets a message that the runner may have answered by then, and paid for.
    """

    def taken(**how: Any) -> int | None:
        how["pull_object"] = _failing(how["pull_object"])
        how["confirm_message_received"] = _failing(_trying(how["confirm_message_received"]))
        return _pull_and_store_message(**how)

    _replace(loop, "_pull_and_store_message", taken)


def _failing(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except RunNotRunningException as over:
            raise RuntimeError("the run is over") from over

    return called


def _trying(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as failure:  # the end of the run is none
            log(WARNING, "The platform did not hear that a message came: %s", type(failure).__name__)

    return called


def answer_before_the_next() -> None:
    """The next message is taken when none waits for its reply.

    Stock SuperNode waits for any one reply. Once a reply is there whose message is gone, such as after a cut, each
    later reply would wait for the next message: a round late, and paid for in vain, for as long as SuperNode lives.
    """

    def pushed(*, state: OneRunnerState, **how: Any) -> None:
        _push_messages(state=state, **how)
        while state.owes_a_reply():
            _push_messages(state=state, **how)

    _replace(loop, "_push_messages", pushed)


def end_when_a_thread_ends() -> None:
    """An unexpected end of a thread ends SuperNode in good order, to be started again.

    Stock SuperNode goes on without its heartbeat: asleep to the platform, and to all appearances running.
    """

    def end(failure: threading.ExceptHookArgs) -> None:
        log(ERROR, "A thread ended with %s, and the SuperNode with it.", failure.exc_type.__name__)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.excepthook = end


def sign_off_whatever_comes() -> None:
    """A second SIGTERM does not interrupt the sign-off, without which the platform refuses this node for a minute.

    The kernel sends several when a supervisor with threads is killed. Flower would go back to dying at once.
    """

    def ignore_the_second(*arguments: Any, **rest: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what Flower goes back to after the first
        register_signal_handlers(*arguments, **rest)

    _replace(loop, "register_signal_handlers", ignore_the_second)


def serve_one_runner() -> None:
    """SuperNode's memory becomes `OneRunnerState`, and who asks for a task begins anew."""

    def acquire_task(request: AcquireTaskRequest, state: OneRunnerState) -> AcquireTaskResponse:
        state.begin_anew()
        return core_runtime_handlers.acquire_task(request, state)

    _replace(runtime_handlers, "acquire_task", acquire_task)
    _replace(nodestate_factory, "InMemoryNodeState", OneRunnerState)


class OneRunnerState(InMemoryNodeState):
    """SuperNode's memory for a single runner that does one task at a time: a killed runner's task is given again.

    Stock SuperNode waits a minute for a killed runner and then answers with an error; a runner killed while it hands
    in its reply stops it for ever. Here a reply counts once all its parts have come, the message's parts are kept
    until the reply is sent, and a runner that asks for a task has none in hand: what the one before it left
    unfinished is given once more, `MOST_TIMES_GIVEN` times at most. The ledger makes the repetition free.
    """

    def __init__(self, object_store: ObjectStore) -> None:
        super().__init__(object_store)
        self._times_given: dict[str, int] = {}

    def begin_anew(self) -> None:
        """Everything claimed and not finished is to be done again."""
        for task in self.get_tasks(statuses=[Status.STARTING, Status.RUNNING]):
            self.finish_task(task.task_id, SubStatus.STOPPED, "")
            self._drop_unfinished_replies({task.run_id})
            # A message that came after the runner's end has a task of its own.
            if not self.get_tasks(run_ids=[task.run_id], statuses=[Status.PENDING]):
                for entry in self._unanswered(task.run_id):
                    self._give_again(entry, task)

    def get_messages_legacy(
        self, *, run_ids: Sequence[int] | None = None, is_reply: bool | None = None, limit: int | None = None
    ) -> Sequence[Message]:
        messages = super().get_messages_legacy(run_ids=run_ids, is_reply=is_reply, limit=limit)
        if not is_reply:
            return messages
        whole = [message for message in messages if self._is_whole(message.metadata.message_id)]
        with self.lock_msg_store:
            for message in messages:
                entry = self.msg_store.get(message.metadata.message_id)
                if entry is not None and message not in whole:
                    entry.is_retrieved = False
        return whole

    def delete_messages(self, *, message_ids: Sequence[str] | None = None) -> None:
        super().delete_messages(message_ids=message_ids)
        for message_id in message_ids or ():
            self._times_given.pop(message_id, None)
            self.object_store.delete(message_id)

    def _on_task_tokens_expired(self, tasks: list[Task]) -> None:
        self._drop_unfinished_replies({task.run_id for task in tasks})
        super()._on_task_tokens_expired(tasks)

    def owes_a_reply(self) -> bool:
        """Whether a message of the platform is here whose reply has not been sent."""
        with self.lock_msg_store:
            return any(entry.message.metadata.reply_to_message_id == "" for entry in self.msg_store.values())

    def _is_whole(self, message_id: str) -> bool:
        tree = self.object_store.get_object_tree(message_id)
        return all(self.object_store.get(part.object_id) for part in iterate_object_tree(tree))

    def _drop_unfinished_replies(self, run_ids: Collection[int]) -> None:
        with self.lock_msg_store:
            for message_id, entry in list(self.msg_store.items()):
                is_reply = entry.message.metadata.reply_to_message_id != ""
                ours = is_reply and entry.message.metadata.run_id in run_ids and not entry.is_retrieved
                if ours and not self._is_whole(message_id):
                    del self.msg_store[message_id]
                    self.object_store.delete(message_id)

    def _unanswered(self, run_id: int) -> list[MessageEntry]:
        with self.lock_msg_store:
            entries = list(self.msg_store.values())
        answered = {entry.message.metadata.reply_to_message_id for entry in entries}
        return [
            entry
            for entry in entries
            if entry.message.metadata.run_id == run_id
            and entry.message.metadata.reply_to_message_id == ""
            and entry.message.metadata.message_id not in answered
        ]

    def _give_again(self, entry: MessageEntry, task: Task) -> None:
        message_id = entry.message.metadata.message_id
        given = self._times_given[message_id] = self._times_given.get(message_id, 1) + 1
        if given > MOST_TIMES_GIVEN:
            self._store_error_replies({task.run_id}, CLIENT_APP_CRASHED_ERROR)
            return
        entry.is_retrieved = False
        self.create_task(task.type, task.run_id, task.fab_hash)
