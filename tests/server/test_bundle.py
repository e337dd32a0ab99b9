import hashlib
import io
import tomllib
import zipfile

from flwr.cli.config_utils import get_fab_metadata
from flwr.common.config import get_fab_config, validate_config
from flwr.common.constant import FAB_MAX_SIZE
from flwr.supercore.fab_format_version import normalize_and_validate_fab_format

from server.bundle import RUN_CONFIG, SERVER_APP, stub_bundle

# Changes with the bundle's text alone: a run's bundle can be told from any other by this.
SHA256 = "e8fe0f1f38b2b2bba216a3f68f50f065773e20a121038beeeee96817424e5281"


def files() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(stub_bundle())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_bundle_ships_no_code():
    assert set(files()) == {"pyproject.toml", ".info/CONTENT"}


def test_the_bundle_is_the_same_bytes_each_time_and_everywhere():
    assert stub_bundle() == stub_bundle()
    assert hashlib.sha256(stub_bundle()).hexdigest() == SHA256


def test_the_bundle_names_the_installed_server_app_and_no_client_that_exists():
    components = tomllib.loads(files()["pyproject.toml"].decode())["tool"]["flwr"]["app"]["components"]
    assert components["serverapp"] == SERVER_APP == "server.serverapp:app"
    assert components["clientapp"].partition(":")[0] == "not.shipped"


def test_flower_takes_the_bundle_and_the_keys_of_its_runs():
    config = get_fab_config(stub_bundle())
    valid, errors, warnings = validate_config(config, check_module=False)
    assert (valid, errors, warnings) == (True, [], [])
    normalize_and_validate_fab_format(config)
    assert set(config["tool"]["flwr"]["app"]["config"]) == set(RUN_CONFIG) >= {"plan"}
    assert get_fab_metadata(stub_bundle()) == ("purchase-power/purchase-power-run", "1.0.0")
    assert len(stub_bundle()) < 2000 < FAB_MAX_SIZE


def test_flowers_list_of_contents_is_right():
    project = files()["pyproject.toml"]
    assert files()[".info/CONTENT"].decode().split(",") == [
        "pyproject.toml",
        hashlib.sha256(project).hexdigest(),
        str(8 * len(project)),
    ]
