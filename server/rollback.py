"""Going back to an older model: it is published again under a new number, and nothing that was is changed.

Merchants take the model with the highest number, so the older file becomes the newest for them. The number that it had
stays what it was: its manifest, its card and its place in everybody's history.
"""

from __future__ import annotations

from dataclasses import replace

from agreement.manifest import sign_manifest, verify_manifest
from pp_model.errors import ConfigError
from server.home import PlatformHome
from server.published import verified_files
from server.registry import ModelRecord, Registry


def roll_back(home: PlatformHome, model: int) -> ModelRecord:
    """The model that merchants get from now on: the same file and card as `model`, under a new number.

    Its training cost what it cost: nothing is released again, so nobody's budget is touched.

    Raises:
        ConfigError: no such model, one that merchants never had, or the one that they have already.
        SignatureError: its files are no longer what was signed; nothing was published.
        PrivateFileError: the plan-signing key is missing, or open to others.
    """
    key = home.signing_key()
    with Registry(home.registry) as registry:
        models = {record.id: record for record in registry.models()}
        if model not in models:
            raise ConfigError(f"there is no model {model}; there are: {', '.join(map(str, models)) or 'none'}")
        manifest = registry.manifest(model)
        if manifest is None:
            raise ConfigError(f"model {model} was never signed, so no merchant has it; finish its run first")
        newest = max(record.id for record in models.values() if record.signed)
        if models[newest].sha256 == models[model].sha256:
            same = "" if newest == model else f", under the number {newest}"
            raise ConfigError(f"model {model} is what merchants get already{same}; name an older one")
        verified_files(models[model], manifest, key.public)
        signed = verify_manifest(manifest, key.public)
        again = registry.add_rollback(model, lambda number: sign_manifest(replace(signed, model_id=number), key))
        return next(record for record in registry.models() if record.id == again)
