"""Certificates are judged by real TLS handshakes, as merchants' programs make them."""

import datetime as dt
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from pp_model.errors import ConfigError
from server.pki import (
    CertificateError,
    check_certificate,
    days_left,
    names_of,
    new_authority,
    new_certificate,
    own_host,
    read_authority,
    usual_names,
)
from tests.support.superlink import DAY, authority, server_certificate

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
NAMES = usual_names("pp.example.org", ["10.1.2.3"])


@pytest.fixture(name="files")
def made_files(tmp_path):
    ca = new_authority("Example platform", now=NOW)
    pair = new_certificate(ca, NAMES, now=NOW)
    for name, data in {"ca.crt": ca.certificate, "server.crt": pair.certificate, "server.key": pair.key}.items():
        (tmp_path / name).write_bytes(data)
    return {"ca": tmp_path / "ca.crt", "certificate": tmp_path / "server.crt", "key": tmp_path / "server.key"}


def connects(files, *, host: str, flags: ssl.VerifyFlags) -> str:
    """The TLS version of a connection over a socket to a server with these files."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files["certificate"], files["key"])
    client = ssl.create_default_context(cafile=str(files["ca"]))
    client.verify_flags |= flags
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            connection, _ = listener.accept()
            with connection, server.wrap_socket(connection, server_side=True) as secured:
                secured.recv(1)

        thread = threading.Thread(target=accept)
        thread.start()
        with (
            socket.create_connection(listener.getsockname()) as plain,
            client.wrap_socket(plain, server_hostname=host) as secured,
        ):
            secured.send(b"x")
            version = secured.version()
        thread.join()
    return version


@pytest.mark.parametrize("host", NAMES)
def test_a_merchant_connects_under_every_name_however_strict_it_is(files, host):
    assert connects(files, host=host, flags=ssl.VerifyFlags.VERIFY_X509_STRICT) == "TLSv1.3"
    check_certificate(**files, host=host)


def test_a_name_that_was_not_asked_for_is_refused(files):
    with pytest.raises(CertificateError, match=r"would not be trusted as other\.example\.org"):
        check_certificate(**files, host="other.example.org")


def test_another_authority_is_refused(files):
    files["ca"].write_bytes(new_authority("Example platform", now=NOW).certificate)
    with pytest.raises(CertificateError, match="would not be trusted"):
        check_certificate(**files, host="localhost")


@pytest.mark.parametrize(
    ("not_before", "not_after", "why"),
    [(-3 * DAY, -DAY, "expired"), (DAY, 3 * DAY, "not yet valid")],
    ids=["expired", "not-yet-valid"],
)
def test_a_certificate_out_of_its_time_is_refused(tmp_path, not_before, not_after, why):
    ca = authority()
    (tmp_path / "ca.crt").write_bytes(ca.pem)
    certificate, key = server_certificate(tmp_path, ca, not_before=not_before, not_after=not_after)
    with pytest.raises(CertificateError, match=why):
        check_certificate(ca=tmp_path / "ca.crt", certificate=certificate, key=key, host="localhost")


def test_a_self_signed_certificate_is_refused(tmp_path, files):
    certificate, key = server_certificate(tmp_path, None)
    with pytest.raises(CertificateError, match="would not be trusted"):
        check_certificate(ca=files["ca"], certificate=certificate, key=key, host="localhost")


def test_a_key_of_another_certificate_is_refused(files):
    ca = new_authority("other", now=NOW)
    files["key"].write_bytes(new_certificate(ca, ["localhost"], now=NOW).key)
    with pytest.raises(CertificateError, match="is not the key of"):
        check_certificate(**files, host="localhost")


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(files):
    key = load_pem_private_key(files["key"].read_bytes(), password=None)
    files["key"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")))
    with pytest.raises(CertificateError, match="without a password"):
        check_certificate(**files, host="localhost")


@pytest.mark.parametrize("part", ["ca", "certificate", "key"])
@pytest.mark.parametrize("content", [None, b"", b"not PEM"], ids=["missing", "empty", "not-pem"])
def test_a_file_that_is_no_certificate_or_key_is_refused(files, part, content):
    files[part].unlink() if content is None else files[part].write_bytes(content)
    with pytest.raises(CertificateError):
        check_certificate(**files, host="localhost")


def test_validity_and_rights_are_as_promised(files):
    ca, server = (x509.load_pem_x509_certificate(files[name].read_bytes()) for name in ("ca", "certificate"))
    assert [(c.not_valid_after_utc - NOW).days for c in (ca, server)] == [3650, 825]
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert not server.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert days_left(files["certificate"].read_bytes(), now=NOW + 800 * DAY) == 25
    assert sorted(names_of(files["certificate"].read_bytes())) == sorted(NAMES)


def test_the_platform_reaches_itself_under_a_name_of_its_certificate(files):
    ca = new_authority("x", now=NOW)

    def chosen(*names: str, public: str = "pp.invalid") -> str:
        certificate = new_certificate(ca, names, now=NOW).certificate
        return own_host(certificate, loopback="127.0.0.1", public_host=public)

    assert chosen("pp.invalid", "127.0.0.1") == "127.0.0.1"
    assert chosen("pp.invalid", "localhost") == "localhost"
    with pytest.raises(CertificateError, match=r"/etc/hosts: 127.0.0.1 pp.invalid"):
        chosen("pp.invalid")


@pytest.mark.parametrize("name", ["a b", "-x.org", "x..org", "http://x.org", "x" * 64, "ä.org", "*"])
def test_what_is_no_name_gets_no_certificate(name):
    with pytest.raises(CertificateError, match="neither"):
        new_certificate(new_authority("x", now=NOW), ["localhost", name], now=NOW)


def test_an_authority_that_is_damaged_signs_nothing(files):
    with pytest.raises(ConfigError, match="restore"):
        read_authority(files["ca"].read_bytes(), b"nonsense")
