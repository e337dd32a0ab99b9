"""The platform's own use of its SuperLink: merchants' keys and runs, over Flower's Control API and past our guard."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

import flower_edge  # noqa: F401  (switches Flower's phone-home off)
from pp_model.errors import ConfigError, PurchasePowerError
from server.guard import OPERATOR_HEADER

TIMEOUT_SECONDS = 30.0
CONNECT_SECONDS = 4.0  # on this host: a server that takes longer is not there

Reason = Literal["unreachable", "certificate", "forbidden", "refused"]
Answer = TypeVar("Answer")


class ControlError(PurchasePowerError):
    """The SuperLink did not do what it was asked.

    Attributes:
        reason: it is not there, it is not the one that it should be, we are not its operator, or it said no.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A registered merchant's node.

    Attributes:
        public_key: one OpenSSH line without a comment.
        status: "registered" (never seen yet), "online" or "offline".
    """

    node_id: int
    name: str
    public_key: str
    status: str


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How a run stands.

    Attributes:
        status: "pending", "starting", "running" or "finished".
        outcome: "completed", "failed" or "stopped" where it is finished, else "".
        details: why it failed, in Flower's words, or "".
    """

    status: str
    outcome: str
    details: str


class ControlClient:
    """The SuperLink's control API as its operator sees it. Use it in a `with`, or close it.

    Every method raises `ControlError`. Nothing is tried twice. No proxy is used and no redirection followed: the
    operator secret goes to the server whose certificate `ca_file` vouches for, or nowhere.

    Args:
        address: host and port, as the server's certificate names the host.
        ca_file: PEM file of the certificate authority.
    """

    def __init__(self, address: str, ca_file: Path, operator_secret: str) -> None:
        self._address = address
        tls = _tls(ca_file)
        self._flower = ControlHttpClient(f"https://{address}", interceptors=[_Operator(operator_secret)], verify=tls)
        self._flower._client.close()
        timeout = httpx.Timeout(TIMEOUT_SECONDS, connect=CONNECT_SECONDS)
        self._flower._client = httpx.Client(verify=tls, timeout=timeout, trust_env=False, follow_redirects=False)

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._flower.close()

    def register(self, name: str, public_key_openssh: bytes) -> int:
        """The id of a new node for the holder of an ECDSA key. Flower takes a key once, also one since removed.

        Raises:
            ConfigError: not an OpenSSH public key on a NIST curve.
        """
        request = RegisterNodeRequest(public_key=pem_of(public_key_openssh), name=name)
        return int(self._call(lambda: self._flower.RegisterNode(request)).node_id)

    def unregister(self, node_id: int) -> None:
        """The node is out: its next request is refused."""
        self._call(lambda: self._flower.UnregisterNode(UnregisterNodeRequest(node_id=node_id)))

    def nodes(self) -> list[Node]:
        """Every registered node, by id; those unregistered are not among them."""
        infos = self._call(lambda: self._flower.ListNodes(ListNodesRequest())).nodes_info
        return [
            Node(node_id=info.node_id, name=info.name, public_key=_openssh_of(info.public_key), status=info.status)
            for info in sorted(infos, key=lambda info: info.node_id)
            if info.status != "unregistered"
        ]

    def start_run(self, bundle: bytes, config: Mapping[str, str | int | float | bool]) -> int:
        """The id of a new run of a bundle. `config` overrides keys of the bundle's own run configuration."""
        fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
        request = StartRunRequest(fab=fab, override_config=user_config_to_proto(dict(config)))
        response = self._call(lambda: self._flower.StartRun(request))
        if not response.run_id:
            raise ControlError("refused", "the SuperLink started no run; its log has the reason")
        return int(response.run_id)

    def stop_run(self, run_id: int) -> None:
        """The run is over, with the outcome "stopped"."""
        if not self._call(lambda: self._flower.StopRun(StopRunRequest(run_id=run_id))).success:
            raise ControlError("refused", f"run {run_id} could not be stopped; see how it stands")

    def run_status(self, run_id: int) -> RunStatus:
        """How a run stands."""
        runs = self._call(lambda: self._flower.ListRuns(ListRunsRequest(run_id=run_id))).run_dict
        status = runs[run_id].status
        return RunStatus(status=status.status, outcome=status.sub_status, details=status.details)

    def _call(self, call: Callable[[], Answer]) -> Answer:
        try:
            return call()
        except httpx.HTTPStatusError as error:
            raise _refusal(error.response, self._address) from error
        except httpx.HTTPError as error:
            raise _no_connection(error, self._address) from error


class _Operator:
    """Flower's hook for what is added to each request."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[OPERATOR_HEADER] = self._secret
        return call_next(context)


def pem_of(public_key_openssh: bytes) -> bytes:
    """An OpenSSH public key line in the format that Flower registers.

    Raises:
        ConfigError: not an ECDSA key on a NIST curve.
    """
    remedy = "make one with `ssh-keygen -t ecdsa -b 384`, and give the file that ends in .pub"
    try:
        key = load_ssh_public_key(public_key_openssh)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"this is not an OpenSSH public key; {remedy}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"the public key is not an ECDSA key on a NIST curve; {remedy}")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _openssh_of(pem: bytes) -> str:
    return load_pem_public_key(pem).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _tls(ca_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the CA certificate {ca_file} cannot be read; give a PEM file") from error
    return context


def _refusal(response: httpx.Response, address: str) -> ControlError:
    if said := FlowerError.from_json(response.text):
        return ControlError("refused", said.message)
    if response.status_code == httpx.codes.FORBIDDEN:
        return ControlError(
            "forbidden",
            f"the SuperLink at {address} did not take us for its operator. Run this on the platform's own host, with "
            "an address of the loopback interface and the operator secret that the SuperLink was started with",
        )
    return ControlError("refused", f"the SuperLink at {address} answered {response.status_code}; see its log")


def _no_connection(error: httpx.HTTPError, address: str) -> ControlError:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0].rstrip(".") or "not valid"
        return ControlError(
            "certificate",
            f"the server at {address} shows a certificate that we do not trust: {why}. Give the CA that issued it, and "
            "an address that it names; renew it if it has expired",
        )
    if "SSL" in text or "TLS" in text:
        return ControlError("certificate", f"the server at {address} does not speak TLS 1.2 or newer")
    return ControlError(
        "unreachable",
        f"no SuperLink answers at {address} ({type(error).__name__}). Is the platform up? Start it with `pp-server up`",
    )
