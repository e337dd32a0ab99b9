"""pp-client serve as a merchant calls it: what is refused before anything is opened, and what is said."""

from __future__ import annotations

import argparse
import shutil
import socket

import pytest

from client.commands import serve
from client.serving.run import TOKEN_FILE
from daemons.files import PrivateFileError
from daemons.web_server import PortError
from pp_model.errors import ConfigError
from tests.support.scored import ScoredShop
from tests.support.serving import served_shop
from tests.support.superlink import authority, server_certificate


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return served_shop(tmp_path_factory.mktemp("served"), customers=10)


@pytest.fixture
def shop(whole, tmp_path) -> ScoredShop:
    folder = tmp_path / "shop"
    shutil.copytree(whole.config.parent, folder)
    return ScoredShop(config=folder / "merchant.toml")


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add(parser.add_subparsers(required=True))
    return parser.parse_args(["serve", *arguments])


def called(shop, *arguments: str) -> int:
    return int(serve.run(parsed("--config", str(shop.config), "--http", "127.0.0.1:0", "--grpc", "none", *arguments)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--http", "8480"), "expected host:port"),
        (("--http", "127.0.0.1:99999"), "expected host:port"),
        (("--grpc", ":8481"), "expected host:port"),
        (("--http", "0.0.0.0:0"), "--certificate"),
        (("--grpc", "[::]:0"), "--certificate"),
        (("--key", "k.pem"), "belong together"),
        (("--workers", "0"), "allowed: 1 to 16"),
        (("--waiting", "-1"), "allowed: 0 to 10000"),
        (("--timeout", "nan"), "allowed: 0.05 to 60"),
        (("--reread", "0"), "allowed: 1 to 1e+06"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_with_what_is_allowed(shop, arguments, words):
    with pytest.raises(ConfigError) as raised:
        called(shop, *arguments)
    assert words in str(raised.value)


def test_without_a_model_it_stops_and_says_where_to_get_one(shop):
    shutil.rmtree(shop.settings.paths.models)
    with pytest.raises(ConfigError, match="pp-client pull"):
        called(shop)


def test_a_port_that_is_taken_is_said(shop):
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(PortError, match="another port"):
            called(shop, "--http", f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(PortError, match="another port"):
            called(shop, "--grpc", f"127.0.0.1:{other.getsockname()[1]}")


def test_a_token_open_to_others_stops_it(shop):
    token = shop.config.parent / "secrets" / TOKEN_FILE
    token.write_bytes(b"t" * 43)
    token.chmod(0o644)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        called(shop)


def test_a_key_open_to_others_stops_it(shop, tmp_path):
    certificate, key = server_certificate(tmp_path, authority())
    key.chmod(0o644)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        called(shop, "--certificate", str(certificate), "--key", str(key))
