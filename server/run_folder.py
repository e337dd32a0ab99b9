"""One folder for all runs of a plan: plan, starting point, the offers it ran under, checkpoints, model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agreement.offer import Offer, verify_offer
from agreement.signing import VerifyKey
from pp_model.errors import ArraysError, CheckpointError, ConfigError
from pp_model.model import array_shapes
from pp_model.plan import TrainingPlan
from pp_model.serialization import Arrays, check_arrays, fingerprint, from_safetensors
from server.checkpoints import write_atomically


@dataclass(frozen=True)
class RunFolder:
    """The folder at `path`."""

    path: Path

    @property
    def plan_file(self) -> Path:
        """The plan as canonical JSON: what is fingerprinted."""
        return self.path / "plan.json"

    @property
    def init_file(self) -> Path:
        """The arrays that training starts from."""
        return self.path / "init.safetensors"

    @property
    def failure_file(self) -> Path:
        """Why the last run stopped, for `pp-server run`; what Flower is told goes to merchants too."""
        return self.path / "failure.txt"

    @property
    def log_file(self) -> Path:
        """One JSON line an event of the runs' own processes."""
        return self.path / "log.jsonl"

    @property
    def training_lock(self) -> Path:
        """Held by the process that trains; so it is free as soon as that process is gone, however it went."""
        return self.path / "training.lock"

    @property
    def flower_run_file(self) -> Path:
        """The number of the last Flower run of the plan."""
        return self.path / "flower-run.txt"

    @property
    def chain_file(self) -> Path:
        """The model's chain."""
        return self.path / "chain.json"

    @property
    def card_file(self) -> Path:
        """The model's card."""
        return self.path / "model_card.md"

    def prepare(self, offer: Offer, data: bytes, init: bytes) -> None:
        """The folder with everything that a run under this offer needs.

        Raises:
            ConfigError: it is another plan's.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        plan = offer.plan.to_json().encode()
        if self.plan_file.exists() and self.plan_file.read_bytes() != plan:
            raise ConfigError(
                f"{self.path} is of another plan with the id {offer.plan.plan_id!r}; make the changed plan under a new "
                "name with pp-server plan new"
            )
        write_atomically(self.init_file, init)
        write_atomically(self._offer_file(offer.serial), data)
        write_atomically(self.plan_file, plan)  # last: with it the folder is complete

    def offers(self) -> dict[int, bytes]:
        """Every signed offer that the plan was run under, by serial number."""
        files = sorted(self.path.glob("offer-*.json"))
        return {int(file.stem.removeprefix("offer-")): file.read_bytes() for file in files}

    def offer(self, key: VerifyKey) -> Offer:
        """The newest offer, verified.

        Raises:
            CheckpointError: there is none; nobody prepared the folder.
            OfferError: not signed with this platform's key.
        """
        offers = self.offers()
        if not offers:
            raise CheckpointError(f"{self.path} holds no offer; start the plan with pp-server run")
        return verify_offer(offers[max(offers)], key)

    def init(self, plan: TrainingPlan) -> Arrays:
        """The arrays that training starts from.

        Raises:
            CheckpointError: not there, damaged, or not the plan's.
        """
        return read_init(self.init_file, plan)

    def started(self) -> bool:
        """Whether a run of the plan ever began."""
        return self.plan_file.exists()

    def _offer_file(self, serial: int) -> Path:
        return self.path / f"offer-{serial:08d}.json"


def read_init(path: Path, plan: TrainingPlan) -> Arrays:
    """The plan's starting point out of its file.

    Raises:
        CheckpointError: not there, damaged, or not the plan's.
    """
    try:
        arrays = check_arrays(from_safetensors(path.read_bytes())[0], array_shapes(plan.model))
    except OSError as error:
        raise CheckpointError(
            f"the plan's starting point {path} cannot be read ({error.strerror}); put it beside the plan, or make the "
            "plan again with pp-server plan new"
        ) from None
    except ArraysError as error:
        raise CheckpointError(f"{path} is not the plan's starting point: {error}; make the plan again") from None
    if fingerprint(arrays) != plan.init_fingerprint:
        raise CheckpointError(f"{path} is another starting point than the plan's; make the plan again")
    return arrays
