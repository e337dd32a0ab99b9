"""pp-server models [rollback | compare]: the published models, back to an older one, and two side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemons.exit_codes import Exit
from server.commands import add_json, finite, hint, new_command, opened, say, say_json, show_table

if TYPE_CHECKING:
    from server.model_compare import Comparison, Side
    from server.registry import ModelRecord


def add(commands: Any) -> None:
    """The parsers of `models` and below it."""
    models = new_command(commands, "models", _models, about="the published models", example="pp-server models --json")
    add_json(models)
    verbs = models.add_subparsers(metavar="COMMAND")
    back = new_command(
        verbs,
        "rollback",
        _rollback,
        about="make an older model the newest for merchants",
        example="pp-server models rollback 1 --home platform",
        text="The same file and card are published again under a new number, signed. Nothing that was is changed, and "
        "nothing is spent: no merchant releases anything. Merchants have it with their next pp-client pull.",
        home=False,
    )
    back.add_argument("model", type=int, metavar="MODEL", help="its number (pp-server models)")
    compare = new_command(
        verbs,
        "compare",
        _compare,
        about="two models side by side: lineage, price, quality on made-up customers, plans, parameters",
        example="pp-server models compare 1 2",
        home=False,
    )
    compare.add_argument("first", type=int, metavar="A", help="number of a model")
    compare.add_argument("second", type=int, metavar="B", help="number of another")
    for parser in (back, compare):  # without a default of their own, which would win over what stands before them
        parser.add_argument("--home", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="the platform's folder")
        parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON for programs")


def _models(args: argparse.Namespace) -> int:
    from server.registry import Registry

    home, _ = opened(args)
    with Registry(home.registry) as registry:
        models = registry.models()
    if args.json:
        say_json([_plain(model) for model in models])
    elif not models:
        say(f"No models yet. Train one: {hint(home, 'run PLAN')}")
    else:
        rows = [
            (m.id, m.run, f"{m.epsilon:.3f}", f"{m.epsilon_two_merchants:.3f}", f"{m.delta:g}", m.sha256[:12], m.file)
            for m in models
        ]
        show_table(("model", "run", "epsilon", "at two shops", "delta", "sha256", "file"), list(rows))
        for model in models:
            if model.rollback_of is not None:
                say(f"Model {model.id} is a rollback: model {model.rollback_of} published again.")
    return Exit.DONE


def _rollback(args: argparse.Namespace) -> int:
    from server.dashboard.audit import TERMINAL, Action, AuditLog, audit_file
    from server.rollback import roll_back

    home, _ = opened(args)
    model = roll_back(home, args.model)
    subject = f"model {args.model} as model {model.id}"
    AuditLog(audit_file(home)).append(Action.ROLLBACK_DONE, who=TERMINAL, subject=subject)
    if args.json:
        say_json(_plain(model))
    else:
        say(f"Model {args.model} is the newest again, as model {model.id}. Merchants have it with their next pull.")
    return Exit.DONE


def _compare(args: argparse.Namespace) -> int:
    from server.model_compare import compare_models
    from server.registry import Registry

    home, _ = opened(args)
    with Registry(home.registry) as registry:
        found = compare_models(registry, args.first, args.second)
    if args.json:
        say_json(_plain_comparison(found))
        return Exit.DONE
    sides = (found.first, found.second)
    names = tuple(f"model {side.model.id}" for side in sides)
    show_table(("", *names), [(label, *cells) for label, cells in _rows(*sides)])
    say()
    if found.plan:
        show_table(("plan", *names), [(each.key, each.first, each.second) for each in found.plan])
    else:
        say("Their plans are the same.")
    if found.distance is None:
        say("Their parameters cannot be compared: other shapes, or a file is gone or was changed.")
    else:
        say(f"Parameters are {found.distance.norm:.4g} apart, {found.distance.relative:.1%} of the first's length.")
    return Exit.DONE


def _rows(one: Side, two: Side) -> list[tuple[str, tuple[str, str]]]:
    def both(label: str, first: object, second: object) -> tuple[str, tuple[str, str]]:
        return label, (str(first), str(second))

    a, b = one.model, two.model
    return [
        both("plan", one.plan_id, two.plan_id),
        both("published (UTC)", a.published or "unknown", b.published or "unknown"),
        both("lineage", _arrow(one.lineage), _arrow(two.lineage)),
        both("rollback of", _or_none(a.rollback_of), _or_none(b.rollback_of)),
        both("rounds", one.rounds, two.rounds),
        both("merchants", one.merchants, two.merchants),
        both("epsilon", f"{a.epsilon:.3f}", f"{b.epsilon:.3f}"),
        both("at two shops", f"{a.epsilon_two_merchants:.3f}", f"{b.epsilon_two_merchants:.3f}"),
        both("log loss, made-up", _figure(a.log_loss), _figure(b.log_loss)),
        both("spend error, made-up", _figure(a.spend_error), _figure(b.spend_error)),
    ]


def _arrow(lineage: tuple[int, ...]) -> str:
    return " < ".join(map(str, lineage))


def _or_none(number: int | None) -> str:
    return "" if number is None else f"model {number}"


def _figure(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4f}"


def _plain(model: ModelRecord) -> dict[str, object]:
    return {name: finite(value) for name, value in vars(model).items()}


def _plain_comparison(found: Comparison) -> dict[str, object]:
    def side(one: Side) -> dict[str, object]:
        return {**vars(one), "model": _plain(one.model), "lineage": list(one.lineage)}

    distance = found.distance
    return {
        "first": side(found.first),
        "second": side(found.second),
        "plan": [vars(each) for each in found.plan],
        "distance": None
        if distance is None
        else {**vars(distance), "relative": finite(distance.relative), "arrays": dict(distance.arrays)},
    }
