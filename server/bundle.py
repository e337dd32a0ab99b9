"""The Flower app bundle that starts a run. It is a name: it ships no code, and merchants never open it."""

from __future__ import annotations

import hashlib
import io
import zipfile

SERVER_APP = "server.serverapp:app"  # as installed on the platform's host
RUN_CONFIG = ("plan",)  # what a run may be given; Flower takes no key that its bundle does not name
_DATE = (1980, 1, 1, 0, 0, 0)
_PYPROJECT = """\
[project]
name = "purchase-power-run"
version = "1.0.0"
description = "Starts the app that is installed on the platform. Nothing in here runs."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "purchase-power"

[tool.flwr.app.components]
serverapp = "{server_app}"
clientapp = "not.shipped:app"

[tool.flwr.app.config]
{config}
"""


def stub_bundle() -> bytes:
    """The bundle of every run: a `pyproject.toml` that names the installed ServerApp, and Flower's list of contents.

    The same bytes each time, and on each machine.
    """
    config = "\n".join(f'{key} = ""' for key in RUN_CONFIG)
    project = _PYPROJECT.format(server_app=SERVER_APP, config=config).encode()
    contents = f"pyproject.toml,{hashlib.sha256(project).hexdigest()},{8 * len(project)}".encode()
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (("pyproject.toml", project), (".info/CONTENT", contents)):
            archive.writestr(zipfile.ZipInfo(name, _DATE), data)
    return bundle.getvalue()
