"""A process that has nothing but the CA certificate, at a real guarded SuperLink over TLS; and impostors of one."""

import base64
import datetime as dt
import ssl
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi.routing import iter_route_contexts
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.auth.superexec import create_superexec_auth_metadata, derive_auth_secret
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TASK_TOKEN_HEADER
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.superlink.main import create_app

from server.bundle import stub_bundle
from server.control import ControlClient, ControlError, RunStatus
from tests.support.superlink import (
    DAY,
    ROOT,
    authority,
    flower_command,
    healthy,
    impostor,
    node_key,
    requested,
    reserved_port,
    running_superlink,
    server_certificate,
    started,
    superlink_arguments,
    wait_until,
)

pytestmark = pytest.mark.e2e

HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"
REFUSED = {401, 403}


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    with running_superlink(tmp_path_factory.mktemp("guarded")) as running:
        yield running


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    with running_superlink(tmp_path_factory.mktemp("stock"), guarded=False) as running:
        yield running


@pytest.fixture
def operator(link):
    with ControlClient(link.address, link.ca_file, link.operator_secret) as client:
        yield client


def flowers_routes() -> list[tuple[str, str]]:
    """Every method and path that Flower's application knows, asked of the application itself."""
    contexts = [context.route for context in iter_route_contexts(create_app().routes)]
    return sorted({(method, route.path) for route in contexts for method in route.methods})


ROUTES = flowers_routes()
HEADERS = {
    "content-type": PROTOBUF_MEDIA_TYPE,
    "accept": PROTOBUF_MEDIA_TYPE,
    **dict(RuntimeVersionMetadata.from_local_component("flwr-serverapp").as_metadata()),
}


def attacks() -> list[tuple[str, str, bytes, dict[str, str]]]:
    """Method, path, body and headers of everything that someone without a secret can think of."""
    node = ec.generate_private_key(ec.SECP384R1())
    pem = node.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    bundle = stub_bundle()
    register = RegisterNodeRequest(public_key=pem, name="mallory").SerializeToString()
    start = StartRunRequest(fab=Fab(hash_str="0" * 64, content=bundle)).SerializeToString()
    acquire = AcquireTaskRequest()
    forged = create_superexec_auth_metadata(
        auth_secret=derive_auth_secret(b"a guess"), method="/flwr.proto.Runtime/AcquireTask", request=acquire
    )
    pull = PullTaskInputRequest().SerializeToString()
    plain = [(method, path, _empty(method, path), {}) for method, path in ROUTES if path.startswith("/v1/")]
    return [
        *plain,
        *[(method, path, body, {TASK_TOKEN_HEADER: "made-up"}) for method, path, body, _ in plain],
        *[(method, path, body, {"pp-operator": "a guess"}) for method, path, body, _ in plain],
        *[(method, path, body, {"x-forwarded-for": "127.0.0.1"}) for method, path, body, _ in plain],
        ("POST", "/v1/fleet/register-node", RegisterNodeFleetRequest(public_key=pem).SerializeToString(), {}),
        ("POST", "/v1/control/register-node", register, {}),
        ("POST", "/v1/control/start-run", start, {}),
        ("POST", "/v1/runtime/acquire-task", acquire.SerializeToString(), {}),
        ("POST", "/v1/runtime/acquire-task", acquire.SerializeToString(), forged),
        ("POST", "/v1/runtime/pull-task-input", pull, {}),
        ("POST", "/v1/runtime/pull-task-input", pull, {TASK_TOKEN_HEADER: "made-up"}),
        ("POST", "/v1/runtime/responses", b"{}", {"content-type": "application/json"}),
    ]


def _empty(method: str, path: str) -> bytes:
    request = PROTOBUF_REQUEST_TYPES.get((method, path))
    return request().SerializeToString() if request else b""


def attacked(link, source: str) -> Counter[tuple[str, int]]:
    """How often each part of the API gave each status to someone at `source`."""
    statuses: Counter[tuple[str, int]] = Counter()
    for method, path, body, headers in attacks():
        sent = {**HEADERS, **headers}
        status, _ = requested(link.port, link.ca_file, method, path, body=body, headers=sent, source=source)
        statuses[path.split("/")[2], status] += 1
    return statuses


def test_the_routes_that_are_tried_are_all_of_flowers():
    parts = Counter(path.split("/")[2] for _, path in ROUTES if path.startswith("/v1/"))
    assert set(parts) == {"control", "fleet", "runtime"}
    assert (parts["control"] >= 41, parts["runtime"] >= 22) == (True, True)
    assert set(PROTOBUF_REQUEST_TYPES) <= set(ROUTES)
    assert {path for _, path in ROUTES if not path.startswith("/v1/")} == {
        "/health", "/docs", "/docs/oauth2-redirect", "/openapi.json",
    }  # fmt: skip


@pytest.mark.parametrize("source", [HERE, ELSEWHERE])
def test_with_only_the_ca_certificate_nothing_succeeds(link, source, operator):
    statuses = attacked(link, source)
    assert {status for _, status in statuses} <= REFUSED
    assert {status for part, status in statuses if part == "control"} == {403}
    if source == ELSEWHERE:
        assert {status for part, status in statuses if part == "runtime"} == {403}
    assert "mallory" not in [node.name for node in operator.nodes()]


def test_without_the_guard_the_same_requests_register_a_node_and_start_a_run(stock):
    statuses = attacked(stock, ELSEWHERE)
    assert statuses["control", 200] >= 10
    body = ListNodesRequest().SerializeToString()
    status, nodes = requested(stock.port, stock.ca_file, "POST", "/v1/control/list-nodes", body=body, headers=HEADERS)
    assert (status, b"mallory" in nodes) == (200, True)


@pytest.mark.parametrize("source", [HERE, ELSEWHERE])
@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/docs/oauth2-redirect", "/redoc", "/", "/pp/v1/offers"])
def test_nothing_describes_the_server(link, path, source):
    assert requested(link.port, link.ca_file, "GET", path, source=source) == (403, b'{"detail": "forbidden"}')


SPELLINGS = [
    "/v1/fleet/..%2fcontrol/list-nodes",
    "/v1/fleet/%2e%2e/control/list-nodes",
    "/v1/fleet/../control/list-nodes",
    "//v1/control/list-nodes",
    "/V1/control/list-nodes",
    "/v1/control/list-nodes/",
    "/v1/control/list%2dnodes",
    "/health/../v1/control/list-nodes",
    "/pp/v1/../../v1/control/list-nodes",
    "/health?/v1/control/list-nodes",
]


@pytest.mark.parametrize("path", SPELLINGS)
def test_no_spelling_of_a_path_leads_around_the_guard(link, path):
    assert requested(link.port, link.ca_file, "POST", path, headers=HEADERS)[0] == 403


def signed(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The headers of a node that holds this key."""
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    timestamp = dt.datetime.now(dt.UTC).isoformat()
    signature = key.sign(timestamp.encode(), ec.ECDSA(hashes.SHA256()))
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signature).decode(),
        "flwr-timestamp": timestamp,
    }


def fleet_statuses(link, key: ec.EllipticCurvePrivateKey) -> dict[str, int]:
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    own = {
        "/v1/fleet/register-node": RegisterNodeFleetRequest(public_key=pem),
        "/v1/fleet/activate-node": ActivateNodeRequest(public_key=pem, heartbeat_interval=30.0),
    }
    statuses = {}
    for (method, path), kind in PROTOBUF_REQUEST_TYPES.items():
        if path.startswith("/v1/fleet/"):
            body = own.get(path, kind()).SerializeToString()
            headers = {**HEADERS, **signed(key)}
            statuses[path] = requested(link.port, link.ca_file, method, path, body=body, headers=headers)[0]
    return statuses


def test_the_fleet_routes_refuse_a_key_that_is_not_registered_and_know_one_that_is(link, operator):
    key = ec.generate_private_key(ec.SECP384R1())
    before = fleet_statuses(link, key)
    # 412 is Flower's no to a well-signed stranger: nobody registers himself, and there is no such node.
    own = {"/v1/fleet/register-node", "/v1/fleet/activate-node"}
    assert before == {path: 412 if path in own else 401 for path in before}
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    node = operator.register("bakery", line)
    assert fleet_statuses(link, key)["/v1/fleet/activate-node"] == 200
    operator.unregister(node)
    assert 200 not in fleet_statuses(link, key).values()


def test_the_operator_registers_merchants_and_starts_and_stops_runs(operator, tmp_path):
    _, line = node_key(tmp_path, "florist")
    node = operator.register("florist", line)
    (known,) = [each for each in operator.nodes() if each.node_id == node]
    assert (known.name, known.public_key.encode(), known.status) == ("florist", line, "registered")
    with pytest.raises(ControlError, match="already in use") as error:
        operator.register("again", line)
    assert error.value.reason == "refused"
    operator.unregister(node)
    assert node not in [each.node_id for each in operator.nodes()]
    run = operator.start_run(stub_bundle(), {"plan": "/x"})
    assert operator.run_status(run).status == "pending"
    operator.stop_run(run)
    assert operator.run_status(run) == RunStatus(status="finished", outcome="stopped", details="")
    for call in (lambda: operator.stop_run(run), lambda: operator.run_status(7), lambda: operator.unregister(7)):
        with pytest.raises(ControlError) as error:
            call()
        assert error.value.reason == "refused"
    with pytest.raises(ControlError, match="run configuration"):
        operator.start_run(stub_bundle(), {"no-such-key": 1})


def test_another_secret_is_not_the_operators(link):
    with (
        ControlClient(link.address, link.ca_file, link.operator_secret[:-1]) as client,
        pytest.raises(ControlError, match="did not take us for its operator") as error,
    ):
        client.nodes()
    assert error.value.reason == "forbidden"


TINY_APP = """
from flwr.serverapp import ServerApp
from pathlib import Path
app = ServerApp()
@app.main()
def main(grid, context):
    Path(str(context.run_config["plan"]), "ran").write_text(__file__)
"""


def test_a_run_of_the_stub_bundle_runs_the_installed_server_app(link, operator, tmp_path):
    package = tmp_path / "installed" / "server"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "serverapp.py").write_text(TINY_APP)
    command = [
        *(flower_command("superexec"), "--runtime-api-address", link.address),
        *("--root-certificates", str(link.ca_file)),
        *("--superexec-auth-secret-file", str(link.superexec_secret_file)),
    ]
    run = operator.start_run(stub_bundle(), {"plan": str(tmp_path)})
    with started(command, log=tmp_path / "superexec.log", home=tmp_path / "flower", path=[package.parent]) as process:
        wait_until(lambda: operator.run_status(run).status == "finished", process=process, timeout=60)
    status = operator.run_status(run)
    assert (status.outcome, status.details) == ("completed", "")
    assert (tmp_path / "ran").read_text() == str(package / "serverapp.py")


@pytest.mark.parametrize(
    ("left_out", "remedy"),
    [
        ("--enable-supernode-auth", "give --enable-supernode-auth"),
        ("--isolation", "give --isolation process"),
        ("--superexec-auth-secret-file", "give --superexec-auth-secret-file"),
        ("--disable-runtime-dependency-installation", "give --disable-runtime-dependency-installation"),
    ],
)
def test_a_superlink_that_would_not_be_safe_does_not_start(tmp_path, left_out, remedy):
    done = refused_start(tmp_path, without=left_out)
    assert (done.returncode, remedy in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_a_superlink_without_tls_does_not_start(tmp_path):
    done = refused_start(tmp_path, without="--enable-supernode-auth", extra=["--insecure"])
    assert (done.returncode, "leave out --insecure" in done.stderr) == (2, True)


def refused_start(folder: Path, *, without: str, extra=()) -> subprocess.CompletedProcess[str]:
    """`python -m server.superlink` that lacks one argument."""
    issuer = authority()
    (folder / "ca.crt").write_bytes(issuer.pem)
    certificate, key = server_certificate(folder, issuer)
    (folder / "secret").write_text("s" * 40)
    with reserved_port() as port:
        arguments = superlink_arguments(
            ca=folder / "ca.crt", cert=certificate, key=key, secret=folder / "secret", port=port, database=folder / "db"
        )
        at = arguments.index(without)
        del arguments[at : at + (2 if arguments[at + 1][:2] != "--" else 1)]
        command = [sys.executable, "-m", "server.superlink", "--operator-secret-file", str(folder / "secret")]
        return subprocess.run(
            [*command, *arguments, *extra], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )


def test_tls_1_1_is_not_spoken(link):
    context = ssl.create_default_context(cafile=str(link.ca_file))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        requested(link.port, link.ca_file, "GET", "/health", context=context)
    context.maximum_version = context.minimum_version = ssl.TLSVersion.TLSv1_2
    assert requested(link.port, link.ca_file, "GET", "/health", context=context)[0] == 200


def test_a_request_leaves_no_line_in_the_log_and_no_secret_in_it_ever(link, operator):
    before = link.log.count("\n")
    assert healthy(link.port, link.ca_file)
    requested(link.port, link.ca_file, "GET", "/no-such-page")
    assert link.log.count("\n") == before
    operator.nodes()
    assert link.operator_secret not in link.log


IMPOSTORS = {
    "expired": {"not_before": -2 * DAY, "not_after": -DAY},
    "not yet valid": {"not_before": DAY, "not_after": 2 * DAY},
    "wrong CA": {},
    "wrong name": {"hosts": ("platform.example",)},
    "self-signed": {},
    "TLS 1.1": {},
}


def impostor_of(kind: str, folder: Path):
    """A server that ought to be refused by those who trust `folder / "ca.crt"`."""
    ours = authority()
    (folder / "ca.crt").write_bytes(ours.pem)
    issuer = {"wrong CA": authority(), "self-signed": None}.get(kind, ours)
    certificate = server_certificate(folder, issuer, **IMPOSTORS[kind])
    newest = ssl.TLSVersion.TLSv1_1 if kind == "TLS 1.1" else ssl.TLSVersion.TLSv1_3
    return impostor(certificate, newest=newest)


@pytest.mark.parametrize("kind", IMPOSTORS)
def test_the_operators_client_says_nothing_to_an_impostor(tmp_path, kind):
    with impostor_of(kind, tmp_path) as server, ControlClient(server.address, tmp_path / "ca.crt", "s" * 32) as client:
        began = time.monotonic()
        with pytest.raises(ControlError) as error:
            client.nodes()
        assert time.monotonic() - began < 5.0
    assert error.value.reason == "certificate"
    assert server.received == [b""]


@pytest.mark.parametrize("kind", IMPOSTORS)
def test_a_supernode_says_nothing_to_an_impostor(tmp_path, kind):
    key, _ = node_key(tmp_path, "node.key")
    (tmp_path / "secret").write_text("s" * 40)
    with impostor_of(kind, tmp_path) as server, reserved_port() as port:
        command = [
            *(flower_command("supernode"), "--superlink", server.address),
            *("--root-certificates", str(tmp_path / "ca.crt"), "--auth-supernode-private-key", str(key)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(tmp_path / "secret")),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
        with started(command, log=tmp_path / "supernode.log", home=tmp_path / "flower") as process:
            wait_until(lambda: bool(server.connected), process=process, timeout=30)
            process.wait(timeout=max(0.1, server.connected[0] + 5.0 - time.monotonic()))
    assert process.returncode != 0
    assert "SSL" in (tmp_path / "supernode.log").read_text()
    assert set(server.received) == {b""}


def test_the_impostor_would_have_heard_what_is_said_to_a_server_that_is_trusted(tmp_path):
    ours = authority()
    (tmp_path / "ca.crt").write_bytes(ours.pem)
    with (
        impostor(server_certificate(tmp_path, ours)) as server,
        ControlClient(server.address, tmp_path / "ca.crt", "s" * 32) as client,
        pytest.raises(ControlError),
    ):
        client.nodes()
    assert b"s" * 32 in server.received[0]
