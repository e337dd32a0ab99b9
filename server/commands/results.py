"""pp-server runs | models | export: what was trained, and how to prove it. For models see `server.commands.models`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemons.exit_codes import Exit
from pp_model.errors import ConfigError
from server.commands import CommandError, add_json, finite, hint, models, new_command, opened, say, say_json, show_table
from server.commands.progress import round_line

if TYPE_CHECKING:
    from server.registry import Registry, RoundRecord, RunRecord


def add(commands: Any) -> None:
    """The parsers of `runs`, `models` and `export`."""
    runs = new_command(commands, "runs", _runs, about="the runs, or the rounds of one", example="pp-server runs 3")
    runs.add_argument("run", nargs="?", type=int, metavar="RUN", help="number of a run: show its rounds")
    add_json(runs)
    models.add(commands)
    export = new_command(
        commands,
        "export",
        _export,
        about="copy a model with its card, its signed manifest and its chain, after checking all of them",
        example="pp-server export 1 --out may-model",
        text="chain.json leads by hashes from the plan over each round, its merchants and its checkpoint to the model; "
        "its last hash is in manifest.json, which is signed with the plan-signing key.",
    )
    export.add_argument("model", type=int, metavar="MODEL", help="its number (pp-server models)")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    add_json(export)


def _runs(args: argparse.Namespace) -> int:
    from server.registry import Registry

    home, _ = opened(args)
    with Registry(home.registry) as registry:
        runs = registry.run_records()
        if args.run is not None:
            return _rounds(registry, runs, args)
    if args.json:
        say_json([vars(run) for run in runs])
    elif not runs:
        say(f"No runs yet. Start one: {hint(home, 'run PLAN')}")
    else:
        rows = [(r.id, r.plan_id, r.state, f"{r.last_round}/{r.rounds}", r.first_round, r.started) for r in runs]
        show_table(("run", "plan", "state", "rounds done", "from round", "started (UTC)"), list(rows))
    return Exit.DONE


def _rounds(registry: Registry, runs: list[RunRecord], args: argparse.Namespace) -> int:
    run = next((run for run in runs if run.id == args.run), None)
    if run is None:
        raise ConfigError(f"there is no run {args.run}; there are: {', '.join(str(run.id) for run in runs) or 'none'}")
    rounds = registry.rounds(run.id)
    if args.json:
        say_json({**vars(run), "played": [_plain(entry) for entry in rounds]})
        return Exit.DONE
    say(f"run {run.id} of {run.plan_id}: {run.state}, {run.last_round} of {run.rounds} rounds done")
    for entry in rounds:
        say(round_line(entry, run.rounds))
    return Exit.DONE


def _plain(entry: RoundRecord) -> dict[str, Any]:
    table = {**vars(entry), "merchants": list(entry.merchants)}
    figures = {name: finite(table[name]) for name in ("norm", "log_loss", "spend_error")}
    return {**table, **figures, "rejections": {str(node): code for node, code in entry.rejections.items()}}


def _export(args: argparse.Namespace) -> int:
    from server.published import verified_files
    from server.registry import Registry

    home, _ = opened(args)
    with Registry(home.registry) as registry:
        model = next((model for model in registry.models() if model.id == args.model), None)
        manifest = registry.manifest(args.model)
    if model is None:
        raise ConfigError(f"there is no model {args.model}; see {hint(home, 'models')}")
    if manifest is None:
        raise CommandError(
            Exit.RESUMABLE, f"model {model.id} was not signed; finish its run: {hint(home, 'run PLAN --resume')}"
        )
    files = verified_files(model, manifest, home.verify_key())
    out = args.out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (out / name).write_bytes(data)
    if args.json:
        say_json({"model": model.id, "sha256": model.sha256, "files": [str(out / name) for name in files]})
    else:
        say(f"model {model.id} is in {out}: {', '.join(files)}; checked against the platform's signature")
    return Exit.DONE
