"""What the pages know of the merchant: its configuration as it is now, and its files, read and never written."""

from __future__ import annotations

import threading
from pathlib import Path

from client.agreements import Agreement, open_agreements
from client.models import CARD_FILE, MANIFEST_FILE, KeptModel, newest_kept
from client.pages.ledger_view import look_at_ledger
from client.settings import MerchantSettings, load_settings
from client.spending import Spending


class Merchant:
    """One merchant's files. Its configuration is read again when it has changed.

    Args:
        config: merchant.toml.

    Raises:
        ConfigError: the configuration cannot be used; from every method too, once it cannot.
    """

    def __init__(self, config: Path) -> None:
        self.config = config.absolute()
        self._lock = threading.Lock()
        self._stamp = self._stamped()
        self._settings = load_settings(self.config)

    @property
    def settings(self) -> MerchantSettings:
        """As merchant.toml has them now."""
        with self._lock:
            stamp = self._stamped()
            if stamp != self._stamp:
                self._settings, self._stamp = load_settings(self.config), stamp
            return self._settings

    @property
    def state(self) -> Path:
        """The folder of what the programs keep."""
        return self.settings.paths.agreements.parent

    @property
    def lists(self) -> Path:
        """Where the scores go that these pages ask for."""
        return self.state / "lists"

    def spending(self) -> Spending:
        """What was charged.

        Raises:
            LedgerError: the ledger cannot vouch for it.
        """
        return look_at_ledger(self.settings)

    def agreements(self) -> list[Agreement]:
        """Every offer and where it stands, the newest first.

        Raises:
            AgreementsError: the store cannot vouch for them.
            PrivateFileError: the node key is missing, or open to others.
        """
        return open_agreements(self.settings).all()[::-1]

    def agreement(self, offer_id: str) -> Agreement:
        """One of them.

        Raises:
            ConfigError: no such offer.
        """
        return open_agreements(self.settings).find(offer_id)

    def model(self) -> KeptModel | None:
        """The newest model that was pulled, verified; None where none was.

        Raises:
            SignatureError: it is not, or no longer, what the platform signed.
            ConfigError: it is without its signature.
        """
        folder = self.settings.paths.models
        return newest_kept(folder, self.settings.plan_key) if self.model_folders() else None

    def model_folders(self) -> list[Path]:
        """The folders of the models that were pulled, the newest first."""
        found = [
            place
            for place in self.settings.paths.models.glob("[0-9]*-*")
            if (place / MANIFEST_FILE).exists() and (place / CARD_FILE).exists()
        ]
        return sorted(found, key=lambda place: int(place.name.partition("-")[0]), reverse=True)

    def _stamped(self) -> tuple[int, int]:
        try:
            found = self.config.stat()
        except OSError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_size)
