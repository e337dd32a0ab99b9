"""What the platform relies on in Flower's SuperLink, documented or not. An upgrade that moves it fails here."""

import dataclasses
import importlib
import inspect
import ssl
import sys

import httpx
import pytest
import uvicorn
from fastapi.routing import iter_route_contexts
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.retry import http_retry
from flwr.supercore.run import RunNotRunningException
from flwr.superlink import extensions
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import http_grid
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.main import create_app

from pp_model.errors import ConfigError
from server.superlink import UNGUARDED, check_safe, read_operator_secret
from tests.support.superlink import authority, server_certificate, superlink_arguments

flower_superlink = importlib.import_module("flwr.superlink.cli.flower_superlink")  # its package hides it


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """What Flower's own parser makes of our arguments, less some and with others."""

    def parse(*extra: str, without: str = "") -> SuperLinkLifespanConfig:
        issuer = authority()
        (tmp_path / "ca.crt").write_bytes(issuer.pem)
        certificate, key = server_certificate(tmp_path, issuer)
        (tmp_path / "secret").write_text("s" * 40)
        arguments = superlink_arguments(
            ca=tmp_path / "ca.crt", cert=certificate, key=key, secret=tmp_path / "secret", port=8443, database=tmp_path
        )
        if without:
            at = arguments.index(without)
            del arguments[at : at + (2 if arguments[at + 1][:2] != "--" else 1)]
        monkeypatch.setattr(sys, "argv", ["flower-superlink", *arguments, *extra])
        return flower_superlink._parse_superlink_lifespan_config()

    return parse


def test_our_arguments_are_safe_as_flower_reads_them(parsed):
    config = parsed()
    check_safe(config)
    assert (config.host, config.port, config.isolation) == ("0.0.0.0", 8443, "process")
    assert config.superexec_auth_secret == b"s" * 40


@pytest.mark.parametrize(
    ("without", "remedy"),
    [
        ("--enable-supernode-auth", "--enable-supernode-auth"),
        ("--isolation", "--isolation process"),
        ("--superexec-auth-secret-file", "--superexec-auth-secret-file"),
        ("--disable-runtime-dependency-installation", "--disable-runtime-dependency-installation"),
    ],
)
def test_without_one_of_them_nothing_starts_and_the_error_names_it(parsed, without, remedy):
    with pytest.raises(ConfigError, match=remedy):
        check_safe(parsed(without=without))


def test_a_simulation_is_no_platform(parsed):
    with pytest.raises(ConfigError, match="--simulation"):
        check_safe(parsed("--simulation"))


def test_without_tls_nothing_starts(parsed):
    config = dataclasses.replace(parsed(), certificates=None, insecure=True)
    with pytest.raises(ConfigError, match="--insecure"):
        check_safe(config)


@pytest.mark.parametrize("name", UNGUARDED)
def test_ports_that_flower_opens_beside_the_guarded_one_are_refused(parsed, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=name):
        check_safe(parsed())


def test_these_are_all_the_ports_that_flower_opens_beside_it():
    source = inspect.getsource(flower_superlink.SuperLinkLifespan.startup)
    assert source.count("self._start_") == 4  # the two, its own SuperExec (never with isolation), and health


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40, b"with a space " * 4])
def test_a_weak_secret_is_refused_and_not_repeated(tmp_path, content):
    (tmp_path / "operator").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_operator_secret(tmp_path / "operator")
    assert "with a space" not in str(error.value)


def test_a_secret_ends_before_its_newline(tmp_path):
    (tmp_path / "operator").write_text("s" * 32 + "\n")
    assert read_operator_secret(tmp_path / "operator") == "s" * 32
    with pytest.raises(ConfigError, match="cannot be read"):
        read_operator_secret(tmp_path / "missing")


def test_flowers_command_does_what_our_launcher_does_in_its_place():
    """It reads its arguments, makes the application and serves it. The rest is its phone-home and a line in the log."""
    lines = [line.strip() for line in inspect.getsource(flower_superlink.flower_superlink).splitlines()]
    assert [line for line in lines if line and not line.startswith(("#", '"""', "log(", "def "))] == [
        'warn_if_flwr_update_available(process_name="flower-superlink")',
        "config = _parse_superlink_lifespan_config()",
        "event(EventType.RUN_SUPERLINK_ENTER)",
        "_run_superlink_http_api(lifespan_config=config)",
    ]
    served = inspect.getsource(flower_superlink._run_superlink_http_api)
    assert "create_app(lifespan_config, SuperLinkLifespan)" in served
    keywords = {
        line.split("=")[0].strip() for line in served.splitlines() if line.startswith("        ") and "=" in line
    }
    assert keywords == {
        *("app", "host", "port", "reload", "access_log", "log_config", "ssl_keyfile", "ssl_certfile", "workers"),
    }  # fmt: skip
    assert inspect.signature(flower_superlink._parse_superlink_lifespan_config).parameters == {}


def test_nothing_else_puts_middleware_in():
    assert extensions.get_middleware() == ()


def test_uvicorn_takes_what_we_tell_it():
    taken = inspect.signature(uvicorn.run).parameters
    wanted = {
        *("host", "port", "ssl_certfile", "ssl_keyfile", "ssl_context_factory", "proxy_headers", "access_log"),
        *("server_header", "ws", "log_config", "timeout_graceful_shutdown"),
    }
    assert wanted <= set(taken)


def test_flowers_routes_are_under_the_prefixes_that_the_guard_knows():
    paths = {context.route.path for context in iter_route_contexts(create_app().routes)}
    others = {path for path in paths if not path.startswith(("/v1/fleet/", "/v1/control/", "/v1/runtime/"))}
    assert others == {"/health", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
    assert {method for method, _ in PROTOBUF_REQUEST_TYPES} == {"POST"}


def test_the_control_client_has_the_http_client_that_we_replace():
    client = ControlHttpClient("https://localhost", verify=ssl.create_default_context())
    assert isinstance(client._client, httpx.Client)
    assert client._retry_invoker is None
    client.close()
    assert client._client.is_closed


def test_flowers_errors_have_a_text_for_the_caller():
    said = FlowerError.from_json('{"code": 15, "detail": "Invalid run configuration."}')
    assert said is not None
    assert (said.code, said.message) == (15, "Invalid run configuration.")
    assert FlowerError.from_json('{"detail": "forbidden"}') is None


def test_flowers_own_grid_fetches_replies_as_we_do_in_its_place():
    source = inspect.getsource(HttpGrid.pull_messages)
    for used in (
        "_runtime_client.PullMessages",
        "_runtime_client.PullObject",
        "_runtime_client.ConfirmMessageReceived",
    ):
        assert used in source
    assert {"messages_list", "message_object_trees"} == set(PullAppMessagesResponse.DESCRIPTOR.fields_by_name)
    assert set(PullAppMessagesRequest.DESCRIPTOR.fields_by_name) == {"message_ids"}
    assert set(PullObjectRequest.DESCRIPTOR.fields_by_name) == {"node", "run_id", "object_id"}
    assert set(PullObjectResponse.DESCRIPTOR.fields_by_name) == {"object_found", "object_available", "object_content"}
    wanted = {"node", "run_id", "message_object_id"}
    assert set(ConfirmMessageReceivedRequest.DESCRIPTOR.fields_by_name) == wanted
    assert "make_message(" in source  # it, too, answers for a sender whose parts are missing
    assert ErrorCode.MESSAGE_UNAVAILABLE == 3


def test_flowers_own_grid_waits_for_a_reply_whose_parts_are_missing_before_it_gives_any():
    """Why we do not call it: each reply in turn, up to this long."""
    assert "pull_objects(" in inspect.getsource(http_grid.HttpGrid.pull_messages)
    assert "max_time" not in inspect.getsource(http_grid.HttpGrid.pull_messages)


def test_flowers_calls_block_while_the_superlink_is_away_and_end_when_the_run_is_stopped():
    assert http_retry.make_simple_http_retry_invoker().max_time is None
    assert not issubclass(RunNotRunningException, Exception)
