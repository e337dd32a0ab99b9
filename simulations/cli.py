"""pp-sim: try a federation of merchants on one machine."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pp_model.config import to_mapping
from pp_model.errors import ConfigError, PurchasePowerError
from pp_model.model_spec import ENCODERS, PRESETS
from pp_model.plan import Aggregation, Trust
from simulations.scenario import BASELINES, ENGINES, Scenario, load_scenario, merged, resolve, shipped_scenarios

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130

_RUN_EXAMPLE = """example:
  pp-sim run --orders orders.csv --column customer_id=CustomerID --column timestamp=InvoiceDate \\
      --column amount=Total --cutoff 2024-10-01 --horizon-days 60 --merchants 8 --epsilon 3 \\
      --baseline local_only --baseline synthetic_only --out runs/mine

Real orders always get noise from the operating system, which no seed can repeat: --seed decides how customers are
dealt out and the first weights. An interrupted run continues when the same command is given again."""

_ENGINE_HELP = (
    "one merchant after the other (in_process), all together (vectorised), or on several machines (ray); default: "
    "vectorised wherever it can train the model"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for input that cannot be used, 130 when interrupted."""
    args = _parser().parse_args(argv)
    # Opacus' hooks on embeddings, whose input can have no gradient, fire all the same.
    warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    try:
        command: Callable[[argparse.Namespace], None] = args.command
        command(args)
    except PurchasePowerError as error:
        Console(stderr=True).print(f"pp-sim: {error}", markup=False, highlight=False, soft_wrap=True)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        Console(stderr=True).print("pp-sim: interrupted; the same command continues where it stopped", markup=False)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pp-sim",
        description="Train one purchase-power model over many merchants with customer-level differential privacy, "
        "on this machine, and see what it gained and what it cost.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = _command(commands, "demo", _demo, "eight synthetic merchants, two minutes", "pp-sim demo --out runs/demo")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the run (default: %(default)s)")
    demo.add_argument("--engine", choices=ENGINES, help=_ENGINE_HELP)
    demo.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    demo.set_defaults(force=True)
    deploy = _command(
        commands,
        "deploy",
        _deploy,
        "a platform and three merchants as real processes, a minute or two",
        "pp-sim deploy --out runs/deploy",
    )
    deploy.add_argument("--out", type=Path, default=Path("runs/deploy"), help="its folder (default: %(default)s)")
    deploy.add_argument("--trust", choices=get_args(Trust), default="local", help="who adds the noise (default: local)")
    deploy.add_argument("--json", action="store_true", help="print the result as JSON, and the steps to stderr")
    _run_command(commands)
    compare = _command(
        commands, "compare", _compare, "one table of several runs", "pp-sim compare runs/a runs/b --baselines"
    )
    compare.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="folder of a finished run")
    compare.add_argument("--baselines", action="store_true", help="show each run's baselines too")
    compare.add_argument("--json", action="store_true", help="print rows as JSON")
    listing = _command(commands, "list", _list, "the scenarios that ship", "pp-sim list")
    listing.add_argument("--json", action="store_true", help="print as JSON")
    pretrain = _command(
        commands,
        "pretrain",
        _pretrain,
        "make a starting point from synthetic shops alone",
        "pp-sim pretrain --encoder mlp --out start.safetensors",
    )
    pretrain.add_argument("--encoder", choices=ENCODERS, required=True)
    pretrain.add_argument("--preset", choices=PRESETS, default="small", help="size of the encoder's layers")
    pretrain.add_argument("--out", type=Path, required=True, help="file to write")
    pretrain.add_argument("--shops", type=int, help="how many synthetic shops (default: as shipped)")
    pretrain.add_argument("--seed", type=int, help="another seed than the shipped one's")
    return parser


def _command(commands: Any, name: str, run: Callable[..., None], about: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=example if example.startswith("example:") else f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


def _run_command(commands: Any) -> None:
    run = _command(commands, "run", _run, "train on your orders, or on a scenario", _RUN_EXAMPLE)
    run.add_argument("scenario", nargs="?", help="a shipped scenario (pp-sim list) or a .toml file; flags override it")
    data = run.add_argument_group("orders")
    data.add_argument("--orders", metavar="FILE", help="CSV, CSV.gz or Parquet")
    data.add_argument("--column", action="append", default=[], metavar="OURS=THEIRS", help="map a column name")
    data.add_argument("--merchant-column", metavar="NAME", help="the column that names the merchant (else: a hash)")
    data.add_argument(
        "--customers-at",
        choices=("home", "each"),
        help="home: a customer belongs to the merchant with most of its visits (default); each: to every one visited",
    )
    data.add_argument("--bad-rows", choices=("error", "skip"), help="what to do with rows that cannot be read")
    run.add_argument("--cutoff", metavar="DATE", help="the holdout starts here; nothing later is trained on")
    run.add_argument("--horizon-days", type=int, metavar="N", help="how far ahead is predicted")
    run.add_argument("--merchants", type=int, metavar="M")
    run.add_argument("--epsilon", type=float, metavar="E", help="of the whole run, per customer and merchant; or inf")
    run.add_argument("--delta", type=float, metavar="D", help="default: 1e-5")
    run.add_argument("--encoder", choices=ENCODERS)
    run.add_argument("--preset", choices=PRESETS, help="size of the encoder's layers (default: small)")
    run.add_argument("--trainable", choices=("readout", "all"))
    run.add_argument("--algorithm", choices=("fedsgd", "fedavg"))
    run.add_argument("--trust", choices=get_args(Trust), help="who adds the noise (default: local)")
    run.add_argument("--dishonest", type=int, metavar="M", help="of a secure sum: who may side with the platform")
    run.add_argument(
        "--aggregation",
        choices=get_args(Aggregation),
        help="how the platform makes one of many releases (default: mean)",
    )
    run.add_argument("--rounds", type=int, metavar="R")
    run.add_argument("--init", metavar="FILE", help="a starting point; 'default' ships with the package; or 'none'")
    run.add_argument("--baseline", action="append", choices=BASELINES, help="compare with this too; repeatable")
    run.add_argument("--seed", type=int, metavar="S")
    run.add_argument("--device", help="auto, cpu, cuda (default: auto)")
    run.add_argument("--engine", choices=ENGINES, help=_ENGINE_HELP)
    run.add_argument("--out", type=Path, metavar="DIR", help="folder for the run (default: runs/NAME)")
    run.add_argument("--force", action="store_true", help="replace a finished run in that folder")
    run.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")


def _demo(args: argparse.Namespace) -> None:
    _simulate(load_scenario("demo", {"engine": args.engine} if args.engine else {}), args)


def _deploy(args: argparse.Namespace) -> None:
    from simulations.demo_deploy import deploy

    try:
        result = deploy(args.out, Console(stderr=args.json, highlight=False), trust=args.trust, as_json=args.json)
    except KeyboardInterrupt:  # all that was started is stopped, and nothing of it can be continued
        raise SystemExit(EXIT_INTERRUPTED) from None
    if args.json:
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")


def _run(args: argparse.Namespace) -> None:
    overrides = _overrides(args)
    if args.scenario:
        scenario = load_scenario(args.scenario, overrides)
    elif args.orders:
        name = Path(args.orders).name.split(".")[0] or "orders"
        _require_flags(args, "cutoff", "horizon_days", "merchants", "epsilon")
        scenario = resolve(merged({"name": name}, overrides))
    else:
        raise ConfigError("nothing to run; give --orders FILE, a scenario (pp-sim list) or a .toml file")
    _simulate(scenario, args)


def _require_flags(args: argparse.Namespace, *names: str) -> None:
    missing = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is None]
    if missing:
        raise ConfigError(f"missing {', '.join(missing)}; see pp-sim run --help for an example")


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    top = ("cutoff", "horizon_days", "merchants", "epsilon", "delta", "seed", "device", "engine")
    table: dict[str, Any] = {name: getattr(args, name) for name in top if getattr(args, name) is not None}
    if args.baseline:
        table["baselines"] = list(dict.fromkeys(args.baseline))
    recipe = ("encoder", "trainable", "algorithm", "rounds", "init", "trust", "dishonest", "aggregation")
    chosen: dict[str, Any] = {name: getattr(args, name) for name in recipe if getattr(args, name) is not None}
    if args.preset:
        chosen["hidden"] = PRESETS[args.preset]
    if chosen:
        table["recipe"] = chosen
    orders: dict[str, Any] = {}
    if args.orders:
        orders["file"] = args.orders
    for name in ("merchant_column", "customers_at"):
        if getattr(args, name):
            orders[name] = getattr(args, name)
    contract: dict[str, Any] = {}
    if args.column:
        contract["columns"] = dict(_pair(text) for text in args.column)
    if args.bad_rows:
        contract["bad_rows"] = args.bad_rows
    if contract:
        orders["contract"] = contract
    return {**table, "orders": orders} if orders else table


def _pair(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not (ours and equals and theirs):
        raise ConfigError(f"--column {text!r} is not OURS=THEIRS; for example --column customer_id=CustomerID")
    return ours.strip(), theirs.strip()


def _simulate(scenario: Scenario, args: argparse.Namespace) -> None:
    # Imported here: PyTorch and Flower take seconds, and --help should not.
    import torch

    from simulations.report import write_report
    from simulations.run import simulate
    from simulations.terminal import result_table

    torch.set_num_threads(1)  # the tensors of one merchant are so small that sharing them out costs more than it saves

    directory = args.out or Path("runs") / scenario.name
    _prepare(directory, scenario, force=args.force)
    with _ProgressBar() as progress:
        result = simulate(scenario, directory, progress)
    (directory / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    write_report(result, directory / "report.html")
    if args.json:
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    else:
        Console().print(result_table(result, report=directory / "report.html"))
        for reason, count in result["skipped_orders"].items():
            sys.stdout.write(f"Left out: {count:,} rows, {reason.replace('_', ' ')}.\n")


def _prepare(directory: Path, scenario: Scenario, *, force: bool) -> None:
    """An empty folder, or one with the unfinished run of the very same scenario."""
    config = json.dumps(to_mapping(scenario), indent=1, sort_keys=True).replace("Infinity", '"inf"') + "\n"
    saved = directory / "config.json"
    finished = (directory / "result.json").exists()
    same = saved.exists() and saved.read_text(encoding="utf-8") == config
    begun = directory.exists() and any(entry != saved for entry in directory.iterdir())
    if begun and (finished or not same):
        if not saved.exists():
            raise ConfigError(f"{directory} holds something else; choose another --out")
        if not force:
            state = "a finished run" if finished else "an unfinished run of another configuration"
            raise ConfigError(f"{directory} holds {state}; choose another --out, or --force to replace it")
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    saved.write_text(config, encoding="utf-8")


def _compare(args: argparse.Namespace) -> None:
    from simulations.compare import comparison_rows, comparison_table, load_result

    results = [load_result(directory) for directory in args.runs]
    if args.json:
        sys.stdout.write(json.dumps(comparison_rows(results, baselines=args.baselines), indent=1) + "\n")
    else:
        Console().print(comparison_table(results, baselines=args.baselines))


def _list(args: argparse.Namespace) -> None:
    scenarios = shipped_scenarios()
    if args.json:
        sys.stdout.write(json.dumps(scenarios, indent=1) + "\n")
        return
    width = max(map(len, scenarios))
    for name, about in scenarios.items():
        sys.stdout.write(f"{name:<{width}}  {about}\n")


def _pretrain(args: argparse.Namespace) -> None:
    from dataclasses import replace

    import torch

    from pp_model.model_spec import ModelSpec
    from simulations.pretrain import PretrainSpec, pretrain, save_init, synthetic_corpus

    torch.set_num_threads(1)  # sums in one order, so that the same command gives the same file
    spec = PretrainSpec()
    spec = replace(spec, shops=args.shops or spec.shops, seed=spec.seed if args.seed is None else args.seed)
    if spec.shops < 20:
        raise ConfigError(f"--shops is {spec.shops}; give at least 20, or nothing varies enough to learn from")
    model = ModelSpec(encoder=args.encoder, hidden=PRESETS[args.preset])
    with _ProgressBar() as progress:
        progress.begin("making synthetic shops", 1)
        corpus = synthetic_corpus(spec, sequence_length=32)
        tick = progress.begin("training", spec.passes)
        arrays = pretrain(model, corpus, spec, on_pass=lambda number, _: tick(number))
    save_init(args.out, arrays, model, spec)
    sys.stdout.write(f"{args.out}: trained on {len(corpus):,} rows of {spec.shops:,} synthetic shops\n")


class _ProgressBar:
    """Progress to a terminal, and to nothing else: a log file wants lines, not bars."""

    def __init__(self) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> _ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, phase: str, steps: int) -> Callable[[int], None]:
        """See `simulations.run.Progress`; the phase before is over."""
        for task in self._bar.task_ids:
            self._bar.update(task, completed=self._bar.tasks[task].total)
        task = self._bar.add_task(phase, total=steps)
        return lambda done: self._bar.update(task, completed=done)


if __name__ == "__main__":
    sys.exit(main())
