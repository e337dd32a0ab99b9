"""What Flower's SuperExec runs for each run of a plan: the installed ServerApp, on the platform's own files.

The bundle that Flower passes around names this module and holds nothing.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

import flower_edge  # noqa: F401  (switches Flower's phone-home off)
from agreement.manifest import ModelManifest, sign_manifest
from daemons.logs import configure_log
from pp_model.errors import ArraysError, PurchasePowerError
from pp_model.model import trainable_shapes
from pp_model.plan import TrainingPlan
from pp_model.protocol import Anchor
from pp_model.serialization import fingerprint, from_safetensors
from server.app import ServerSettings, make_server_app
from server.chain import head_of, make_chain
from server.checkpoints import write_atomically
from server.home import PlatformHome, exclusive
from server.registry import Registry
from server.roster import Roster
from server.run_folder import RunFolder

PLAN = "plan"  # the key of the run configuration; merchants' nodes are told its value, so it is no path
HOME = "PP_SERVER_HOME"  # the environment variable with the platform's folder

OTHERS_SECONDS = 60.0  # for a process of an earlier run to notice that it is over

log = logging.getLogger(__name__)


class StoppedError(Exception):
    """All that Flower learns of a failure. It tells merchants' nodes the text, so there is only one."""

    def __init__(self) -> None:
        super().__init__("the run stopped")


def settings_for(context: Context) -> ServerSettings:
    """What to train: the plan that the run configuration names, out of the platform's folder.

    Raises:
        PurchasePowerError: the folder is not complete, or not signed by this platform.
    """
    home, folder = _home(), _folder(context)
    config = home.load_config()
    key = home.signing_key()
    offer = folder.offer(key.public)
    roster = Roster(home.registry)  # for as long as the process lives

    def merchants() -> Mapping[int, str]:
        return roster.approved_nodes(offer.id)

    def sign(registry: Registry, model: int) -> None:
        sign_model(registry, model, folder=folder, home=home, platform=config.name, plan=offer.plan)

    return ServerSettings(
        plan=offer.plan,
        initial=folder.init(offer.plan),
        trainable=trainable_shapes(offer.plan.model),
        directory=folder.path,
        registry=home.registry,
        parent_model=parent_of(home.registry, offer.plan),
        merchants=merchants,
        anchors=RosterAnchors(roster),
        sign=sign,
    )


class RosterAnchors:
    """The roster's memory of ledgers, by node. See `server.strategy.AnchorBook`."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def known(self, node: int) -> Anchor | None:
        """The furthest entry seen of the ledger that the node's merchant used last."""
        return self._roster.known_anchor(self._roster.name_of(node))

    def seen(self, node: int, anchor: Anchor) -> None:
        """Keeps how far its ledger is."""
        self._roster.seen_anchor(self._roster.name_of(node), anchor)


def sign_model(
    registry: Registry, model: int, *, folder: RunFolder, home: PlatformHome, platform: str, plan: TrainingPlan
) -> None:
    """Writes the model's chain, and signs the manifest under which merchants can have the model."""
    record = next(record for record in registry.models() if record.id == model)
    card = sha256(folder.card_file.read_bytes()).hexdigest()
    links = make_chain(
        plan,
        offers=folder.offers(),
        rounds=registry.checkpointed_rounds(plan.fingerprint),
        model_sha256=record.sha256,
        card_sha256=card,
    )
    write_atomically(folder.chain_file, (json.dumps(links, indent=1, allow_nan=False) + "\n").encode())
    manifest = ModelManifest(
        platform=platform,
        model_id=model,
        sha256=record.sha256,
        card_sha256=card,
        plan_fingerprint=plan.fingerprint,
        chain_head=head_of(links),
    )
    registry.sign_model(model, sign_manifest(manifest, home.signing_key()), str(folder.card_file))


def parent_of(registry: Path, plan: TrainingPlan) -> int | None:
    """The published model that the plan starts from; None where it is none of this platform's."""
    with Registry(registry) as known:
        for record in known.models():
            try:
                arrays, _ = from_safetensors(Path(record.file).read_bytes())
            except (OSError, ArraysError):
                continue
            if fingerprint(arrays) == plan.init_fingerprint:
                return record.id
    return None


def _home() -> PlatformHome:
    return PlatformHome(Path(os.environ[HOME]))


def _folder(context: Context) -> RunFolder:
    return RunFolder(_home().run_folder(str(context.run_config[PLAN])))


def _main(grid: Grid, context: Context) -> None:
    folder = _folder(context)
    configure_log(folder.log_file, "INFO")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    os.umask(0o077)
    busy = "process {pid} still trains this plan; stop it with pp-server run --stop, then resume"
    try:
        with exclusive(folder.training_lock, busy=busy, patience_seconds=OTHERS_SECONDS):
            _trained(grid, context)
    except Exception as error:
        log.error("run stopped", exc_info=True)
        ours = isinstance(error, PurchasePowerError)
        reason = str(error) if ours else f"{type(error).__name__}; see {folder.log_file}"
        write_atomically(folder.failure_file, reason.encode())
        raise StoppedError from None


_trained = make_server_app(settings_for)
app = ServerApp()
app.main()(_main)
