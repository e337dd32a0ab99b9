"""A Flower Grid in one process: the ServerApp and ClientApp objects of a deployment, without its processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Self

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

import flower_edge  # noqa: F401  (switches Flower's phone-home off)

RUN_ID = 1
SERVER_NODE = 1

log = logging.getLogger(__name__)


class LocalGrid(Grid):
    """A platform and its merchants in this process. Use it in a `with`: Flower's process-wide state is set inside it
    and restored after it.
    """

    def __init__(self) -> None:
        self._run = Run.create_empty(RUN_ID)
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self._exit.enter_context(_task_identity())
        self._exit.enter_context(_quiet_flower())
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def server_context(self) -> Context:
        """The context of the ServerApp: `server_app(grid, grid.server_context())`."""
        return Context(run_id=RUN_ID, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config={})

    def set_run(self, run: Run) -> None:
        """See `Grid`."""
        self._run = run

    @property
    def run(self) -> Run:
        """See `Grid`."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """See `Grid`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


class InProcessGrid(LocalGrid):
    """Merchants that answer one by one, each by its ClientApp.

    Replies come in the order of the messages, and nobody is ever late: a simulation must not depend on how busy the
    machine is. What a ClientApp raises becomes an error reply without its text, and ends nothing.

    Args:
        node_configs: each node's id and configuration; `Context.node_config` at the ClientApp.
        workers: messages handled at the same time, in threads; 1 handles them one after the other.
        on_round: told the messages and the replies of every `send_and_receive`.
    """

    def __init__(
        self,
        client_app: ClientApp,
        *,
        node_configs: Mapping[int, UserConfig],
        workers: int = 1,
        on_round: Callable[[Sequence[Message], Sequence[Message]], None] | None = None,
    ) -> None:
        self._app, self._workers, self._on_round = client_app, workers, on_round
        self._contexts = {
            node: Context(run_id=RUN_ID, node_id=node, node_config=dict(config), state=RecordDict(), run_config={})
            for node, config in node_configs.items()
        }
        self._replies: dict[str, Message] = {}
        super().__init__()

    def get_node_ids(self) -> list[int]:
        """See `Grid`."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """See `Grid`; the merchants have answered when it returns."""
        sent = list(messages)
        for message in sent:
            message.metadata.__dict__["_message_id"] = message.object_id  # as Flower's own Grid numbers them
        if self._workers == 1:
            replies = [self._reply(message) for message in sent]
        else:
            with ThreadPoolExecutor(self._workers) as pool:
                replies = list(pool.map(self._reply, sent))
        ids = [message.metadata.message_id for message in sent]
        self._replies |= dict(zip(ids, replies, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """See `Grid`."""
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """See `Grid`."""
        del timeout  # nobody is late
        sent = list(messages)
        replies = self.pull_messages(self.push_messages(sent))
        if self._on_round:
            self._on_round(sent, replies)
        return replies

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        try:
            return self._app(message, self._contexts[node])
        except Exception as error:
            log.warning("client app failed", extra={"node": node, "error": type(error).__name__})
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION), reply_to=message)


class TogetherGrid(LocalGrid):
    """Merchants that answer a round together.

    Args:
        nodes: their ids.
        answers: the content of each message's reply, in the order of the messages; made as they are taken, so that not
            all of them are in memory at once.
        on_round: told the messages of every `send_and_receive`, when the last reply was taken.
    """

    def __init__(
        self,
        nodes: Sequence[int],
        answers: Callable[[Sequence[Message]], Iterable[RecordDict]],
        *,
        on_round: Callable[[Sequence[Message]], None],
    ) -> None:
        super().__init__()
        self._nodes, self._answers, self._on_round = list(nodes), answers, on_round
        self._sent = 0

    def get_node_ids(self) -> list[int]:
        """See `Grid`."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Nobody here answers later; use `send_and_receive`."""
        raise NotImplementedError("merchants that answer together are asked with send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """See `push_messages`."""
        raise NotImplementedError("merchants that answer together are asked with send_and_receive")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """See `Grid`."""
        del timeout  # nobody is late
        sent = list(messages)
        for message in sent:
            self._sent += 1
            message.metadata.__dict__["_message_id"] = str(self._sent)  # Flower's own number is a hash of the model
        for message, content in zip(sent, self._answers(sent), strict=True):
            yield Message(content, reply_to=message)
        self._on_round(sent)


@contextmanager
def _task_identity() -> Iterator[None]:
    """Flower's Message reads who sends it from class attributes that its processes set at their start."""
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = 1, RUN_ID, SERVER_NODE
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


@contextmanager
def _quiet_flower() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
