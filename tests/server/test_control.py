"""What needs no SuperLink; the rest is in `tests/e2e/test_guarded_superlink.py`."""

import http.server
import ssl
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from pp_model.errors import ConfigError, PurchasePowerError
from server.control import ControlClient, ControlError, pem_of
from tests.support.superlink import authority, reserved_port, server_certificate

SECRET = "s" * 40


def openssh(key) -> bytes:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@pytest.fixture
def trusted(tmp_path):
    """A CA file, and the files of a server that it vouches for."""
    ours = authority()
    (tmp_path / "ca.crt").write_bytes(ours.pem)
    return tmp_path / "ca.crt", server_certificate(tmp_path, ours)


@pytest.fixture
def answering(trusted):
    """A server with `answers`, (status, headers, body) in turn, and what it was asked in `asked`."""

    class Server(http.server.HTTPServer):
        answers, asked = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.server.asked.append((self.path, self.headers.get_all("pp-operator")))
            status, headers, body = self.server.answers.pop(0)
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body)), "connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*trusted[1])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def client(server, trusted) -> ControlClient:
    return ControlClient(f"127.0.0.1:{server.server_port}", trusted[0], SECRET)


def test_an_openssh_key_becomes_what_flower_registers():
    key = ec.generate_private_key(ec.SECP384R1())
    pem = pem_of(openssh(key) + b" merchant@shop")
    assert load_pem_public_key(pem).public_numbers() == key.public_key().public_numbers()


@pytest.mark.parametrize(
    "line",
    [b"", b"ssh-rsa", b"anna@example.com", openssh(ed25519.Ed25519PrivateKey.generate()), b"\xff\x00"],
    ids=["nothing", "a-word", "an-address", "another-kind", "bytes"],
)
def test_another_key_is_refused_with_the_way_to_a_good_one_and_not_repeated(line):
    with pytest.raises(ConfigError, match="ssh-keygen -t ecdsa") as error:
        pem_of(line)
    assert "anna" not in str(error.value)


def test_where_nobody_listens_the_error_says_so(trusted):
    with (
        reserved_port() as port,
        ControlClient(f"127.0.0.1:{port}", trusted[0], SECRET) as nobody,
        pytest.raises(ControlError, match="pp-server up") as error,
    ):
        nobody.nodes()
    assert error.value.reason == "unreachable"
    assert isinstance(error.value, PurchasePowerError)


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_a_ca_file_that_is_none_is_an_error_before_anything_is_sent(tmp_path, content):
    if content is not None:
        (tmp_path / "ca.crt").write_bytes(content)
    with pytest.raises(ConfigError, match="CA certificate"):
        ControlClient("127.0.0.1:1", tmp_path / "ca.crt", SECRET)


@pytest.mark.parametrize(
    ("status", "body", "reason", "text"),
    [
        (403, b'{"detail": "forbidden"}', "forbidden", "did not take us for its operator"),
        (412, b'{"code": 15, "detail": "Invalid run configuration."}', "refused", "Invalid run configuration."),
        (403, b'{"code": 9, "detail": "You may not."}', "refused", "You may not."),
        (500, b"oops", "refused", "answered 500"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words_or_in_ours(answering, trusted, status, body, reason, text):
    answering.answers = [(status, {"content-type": "application/json"}, body)]
    with client(answering, trusted) as control, pytest.raises(ControlError) as error:
        control.nodes()
    assert error.value.reason == reason
    assert text in str(error.value)
    assert SECRET not in str(error.value)


def test_every_request_has_the_secret_and_no_redirection_gets_it(answering, trusted):
    answering.answers = [(307, {"location": "/elsewhere"}, b""), (200, {}, b"")]
    answering.asked.clear()
    with client(answering, trusted) as control:
        with pytest.raises(ControlError):
            control.nodes()
        assert control.nodes() == []
    assert answering.asked == [("/v1/control/list-nodes", [SECRET])] * 2


def test_no_proxy_of_the_environment_is_used(answering, trusted, monkeypatch):
    with reserved_port() as nobody:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{nobody}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        answering.answers = [(200, {}, b"")]
        with client(answering, trusted) as control:
            assert control.nodes() == []
