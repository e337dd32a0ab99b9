"""The gRPC door: the calls of purchase_power.proto, health and reflection, behind the same token and the same desk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from client.serving import purchase_power_pb2 as pb
from client.serving.bearer import Bearer
from client.serving.desk import Desk
from client.serving.faults import RETRY_SECONDS, TRY_AGAIN, Code, ServingError
from client.serving.http_guard import MOST_BODY_BYTES
from client.serving.schemas import Answer, Asked, AskPortrait, Rerank, ScoreCustomer, ScoreOrders, read
from client.serving.tls import Certificate
from daemons.web_server import Address, PortError

SERVICE: str = pb.DESCRIPTOR.services_by_name["PurchasePower"].full_name
MOST_STREAMS, HANDSHAKE_MILLISECONDS = 128, 5_000
MOST_READ_BYTES = 2 * MOST_BODY_BYTES  # of one message; what is larger gRPC refuses by itself, and nobody can count it
STATUS: Mapping[Code, grpc.StatusCode] = {
    Code.NOT_JSON: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    Code.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Code.NOT_FOUND: grpc.StatusCode.UNIMPLEMENTED,
    Code.UNKNOWN_CUSTOMER: grpc.StatusCode.NOT_FOUND,
    Code.WRONG_METHOD: grpc.StatusCode.UNIMPLEMENTED,
    Code.TOO_SLOW: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.WRONG_TYPE: grpc.StatusCode.INVALID_ARGUMENT,
    Code.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Code.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
    Code.NOT_READY: grpc.StatusCode.UNAVAILABLE,
    Code.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}
CALLS: Mapping[str, tuple[type[Asked], type[Message], type[Message]]] = {
    "ScoreCustomer": (ScoreCustomer, pb.ScoreCustomerRequest, pb.Score),
    "ScoreOrders": (ScoreOrders, pb.ScoreOrdersRequest, pb.Score),
    "Rerank": (Rerank, pb.RerankRequest, pb.RerankAnswer),
    "Portrait": (AskPortrait, pb.PortraitRequest, pb.PortraitAnswer),
}


class GrpcDoor:
    """The server; of its own event loop. Its health is SERVING from `tell(serving=True)` on, and not before."""

    def __init__(self, desk: Desk, *, bearer: Bearer) -> None:
        options = (
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MOST_READ_BYTES),
            ("grpc.max_metadata_size", 8_192),
            ("grpc.max_concurrent_streams", MOST_STREAMS),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_MILLISECONDS),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.max_connection_idle_ms", 300_000),
        )
        self._server = grpc.aio.server(
            interceptors=(_TokenFirst(bearer, partial(desk.metrics.turned_away, "grpc")),),
            options=options,
            maximum_concurrent_rpcs=MOST_STREAMS,
        )
        handlers = {name: _handler(desk, *kinds) for name, kinds in CALLS.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, reflection.SERVICE_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection(names, self._server)

    async def start(self, address: Address, certificate: Certificate | None) -> int:
        """Listens; the port.

        Raises:
            PortError: the address is taken or not ours.
        """
        host, port = address
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        await self.tell(serving=False)
        try:
            if certificate is None:
                found = self._server.add_insecure_port(place)
            else:
                pair = (certificate.key, certificate.certificate)
                found = self._server.add_secure_port(place, grpc.ssl_server_credentials((pair,)))
        except RuntimeError:
            raise PortError(address, "the address is in use or not of this machine") from None
        await self._server.start()
        return int(found)

    async def tell(self, *, serving: bool) -> None:
        """What health says from now on."""
        answer = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self._health.set(name, answer.SERVING if serving else answer.NOT_SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Takes no more calls, and waits for those in flight."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


def plain(message: Message) -> dict[str, Any]:
    """The fields that are set, as plain values."""
    return {field.name: _plain(value) for field, value in message.ListFields()}


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, str | int | float | bool):
        return value
    return [_plain(each) for each in value]


def _handler(desk: Desk, kind: type[Asked], request: type[Message], answer: type[Message]) -> grpc.RpcMethodHandler:
    async def call(data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            asked = read(kind, plain(_parsed(request, data)))
        except ServingError as error:
            desk.metrics.turned_away("grpc", error.code)
            await _abort(context, error)
        try:
            found: Answer = await desk.answer("grpc", asked, seconds=context.time_remaining())
        except ServingError as error:
            await _abort(context, error)
        sent: bytes = answer(**found.model_dump(mode="json", exclude_none=True)).SerializeToString()
        return sent

    # Bytes in and out: what cannot be parsed is answered by us.
    return grpc.unary_unary_rpc_method_handler(call)


def _parsed(kind: type[Message], data: bytes) -> Message:
    if len(data) > MOST_BODY_BYTES:
        raise ServingError(Code.TOO_LARGE)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise ServingError(Code.INVALID) from None


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: ServingError) -> NoReturn:
    told = [("pp-code", error.code.value)]
    if error.code in TRY_AGAIN:
        told.append(("retry-after", str(RETRY_SECONDS)))
    await context.abort(STATUS[error.code], str(error), tuple(told))
    raise AssertionError("abort raises")


class _TokenFirst(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    def __init__(self, bearer: Bearer, turned_away: Callable[[Code], None]) -> None:
        self._bearer, self._turned_away = bearer, turned_away

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        given = [value for name, value in details.invocation_metadata if name == "authorization"]
        if len(given) == 1 and self._bearer.allows(str(given[0]).encode("utf-8", "replace")):
            handler = await continuation(details)
            if handler is None:  # gRPC answers that there is no such method
                self._turned_away(Code.NOT_FOUND)
            return handler
        self._turned_away(Code.UNAUTHORIZED)
        return grpc.stream_stream_rpc_method_handler(_refuse)  # which has nothing read of what is sent


async def _refuse(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    await _abort(context, ServingError(Code.UNAUTHORIZED))
