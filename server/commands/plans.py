"""pp-server plan new | price | sign: what is to be trained, what it costs, and the platform's word for it."""

from __future__ import annotations

import argparse
import datetime as dt
import math
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemons.exit_codes import Exit
from daemons.files import write_private
from pp_model.errors import ConfigError
from server.commands import CommandError, add_json, hint, new_command, opened, say, say_json, show_table
from server.home import PlatformHome, checked_name

if TYPE_CHECKING:
    from pp_model.plan import Peer, TrainingPlan
    from server.recipe import Recipe

SHOPS = (1, 2, 3, 5, 10)
FEWEST_IN_A_SUM = 3
_LOOKERS = {
    "platform": "against a platform that no merchant helps",
    "with_dishonest": "against one that as many help as the plan assumes (charged)",
    "all_others": "if all other merchants help it",
}
ROUND_OVERHEAD_SECONDS, TRAINING_SECONDS = 3.0, 1.5  # of an estimate; measured ones are in docs/results.md
_AGGREGATIONS = ("mean", "norm_filter", "trimmed_mean", "median")
_ENCODERS, _PRESETS = ("linear", "mlp", "gru", "transformer"), ("small", "large")  # `pp_model.model` loads PyTorch

_HEADER = """\
# A plan: everything public about one federated run. Change what you like, then look at the price again:
#   pp-server plan price {name}
# It starts from {name}.init.safetensors beside it, which init_fingerprint names. Merchants see all of it.

"""


def add(commands: Any) -> None:
    """The parsers below `plan`."""
    group = commands.add_parser("plan", help="make, price or sign a plan", description="Make, price or sign a plan.")
    verbs = group.add_subparsers(required=True, metavar="COMMAND")
    _add_new(verbs)
    pricing = new_command(
        verbs,
        "price",
        _price,
        about="what a plan costs in privacy, time and traffic",
        example="pp-server plan price may",
    )
    pricing.add_argument("plan", metavar="PLAN", help="its name, or its .toml file")
    add_json(pricing)
    signing = new_command(
        verbs,
        "sign",
        _sign,
        about="sign a plan, so that it can be offered to merchants",
        example="pp-server plan sign may --days 14 --for bakery florist",
        text="The offer names the plan, who it is for and how long it is valid. Merchants refuse every other text.",
    )
    signing.add_argument("plan", metavar="PLAN", help="its name, or its .toml file")
    until = signing.add_mutually_exclusive_group()
    until.add_argument("--days", type=int, default=14, metavar="N", help="how long it is valid (default: 14)")
    until.add_argument("--expires", metavar="TIME", help="or until when, like 2025-02-01T12:00, in UTC")
    signing.add_argument("--not-before", metavar="TIME", help="from when it is valid (default: now)")
    signing.add_argument("--for", dest="merchants", nargs="+", metavar="MERCHANT", help="for these (default: for all)")


def _add_new(verbs: Any) -> None:
    new = new_command(
        verbs,
        "new",
        _new,
        about="write a plan whose accounting never exceeds an epsilon",
        example="pp-server plan new may --epsilon 3 --holdout 2025-05-01 --horizon-days 60",
    )
    new.add_argument("name", metavar="NAME", help="of the plan and its files")
    new.add_argument("--epsilon", type=float, required=True, help="of the whole run, for a customer of one merchant")
    new.add_argument("--holdout", required=True, metavar="DATE", help="first day that training never sees")
    new.add_argument("--horizon-days", type=int, required=True, metavar="N", help="how far ahead is predicted")
    new.add_argument("--delta", type=float, default=1e-5, help="of the guarantee (default: 1e-5)")
    new.add_argument("--rounds", type=int, metavar="R")
    new.add_argument("--encoder", choices=_ENCODERS, help="default: mlp")
    new.add_argument("--preset", choices=_PRESETS, help="size of the encoder's layers (default: small)")
    new.add_argument("--trainable", choices=("readout", "all"), help="default: readout")
    new.add_argument("--algorithm", choices=("fedsgd", "fedavg"), help="default: fedsgd")
    new.add_argument(
        "--aggregation",
        choices=_AGGREGATIONS,
        help="with local trust: how releases become one; all but the mean leave out who is far off (default: mean)",
    )
    new.add_argument("--declared-customers", type=int, metavar="N", help="every merchant has at least so many")
    new.add_argument(
        "--trust",
        choices=("local", "secure_sum"),
        default="local",
        help="who adds the noise: each merchant all of it, or its share and the platform sees the sum (default: local)",
    )
    new.add_argument("--with", dest="merchants", nargs="+", metavar="MERCHANT", help="of a secure sum (default: all)")
    new.add_argument("--dishonest", type=int, metavar="K", help="of a secure sum: who may side with you (default: 1)")
    new.add_argument(
        "--min-merchants",
        type=int,
        metavar="M",
        help="least releases of a round (default: 2; of a secure sum, three quarters of the merchants)",
    )
    new.add_argument("--round-timeout", type=float, default=300.0, metavar="S", help="seconds (default: 300)")
    new.add_argument(
        "--answer-every",
        type=float,
        default=1.0,
        metavar="S",
        help="merchants answer at whole multiples of so many seconds, so that timing tells little (default: 1)",
    )
    new.add_argument("--init", default="default", help="'default' ships with the program; 'none'; or a file")


def _new(args: argparse.Namespace) -> int:
    # Imported here: PyTorch takes seconds, and --help should not.
    import tomli_w

    from pp_model.config import to_mapping
    from pp_model.model_spec import PRESETS
    from pp_model.serialization import to_safetensors
    from server.recipe import Recipe, make_plan
    from server.starting_point import load_init

    home, _ = opened(args)
    name = checked_name(args.name)
    chosen: dict[str, Any] = dict(Recipe.fedavg()) if args.algorithm == "fedavg" else {}
    for key in (
        "rounds",
        "encoder",
        "trainable",
        "algorithm",
        "declared_customers",
        "init",
        "trust",
        "dishonest",
        "aggregation",
    ):
        if getattr(args, key) is not None:
            chosen[key] = getattr(args, key)
    if args.preset:
        chosen["hidden"] = PRESETS[args.preset]
    recipe = Recipe(**chosen)
    if not 1 <= recipe.rounds <= 100_000:  # before the search for the noise, which has no end without steps
        raise ConfigError(f"--rounds is {recipe.rounds}; allowed: 1 to 100000")
    roster = _peers(home, args.merchants) if recipe.trust == "secure_sum" else ()
    arrays = load_init(recipe.init, recipe.model, seed=secrets.randbits(31))
    plan = make_plan(
        recipe,
        arrays,
        plan_id=name,
        epsilon=args.epsilon,
        delta=args.delta,
        horizon_days=args.horizon_days,
        holdout_start=_date(args.holdout),
        min_completions=_least(recipe, len(roster)) if args.min_merchants is None else args.min_merchants,
        round_timeout_seconds=args.round_timeout,
        answer_every_seconds=args.answer_every,
        roster=roster,
    )
    file = home.plans / f"{name}.toml"
    text = _HEADER.format(name=name) + tomli_w.dumps(_without_none(to_mapping(plan)))
    write_private(init_beside(file), to_safetensors(arrays, {"kind": "init", "plan": name}))
    write_private(file, text.encode())
    read_plan(file)
    say(f"{file}: noise multiplier {plan.dp.noise_multiplier:g}, {plan.rounds} rounds")
    say(f"Look at its price: {hint(home, f'plan price {name}')}\nThen sign it:      {hint(home, f'plan sign {name}')}")
    return Exit.DONE


def _peers(home: PlatformHome, names: Sequence[str] | None) -> tuple[Peer, ...]:
    """The merchants of a secure sum: these, or all.

    Raises:
        ConfigError: one that there is not, or too few.
    """
    from pp_model.plan import Peer
    from server.roster import Roster

    with Roster(home.registry) as roster:
        known = {merchant.name: merchant.fingerprint for merchant in roster.merchants()}
    chosen = sorted(set(names or known))
    keys = _fingerprints(chosen, known)
    if len(keys) < FEWEST_IN_A_SUM:
        raise ConfigError(
            f"a secure sum of {len(keys)} merchants: there must be {FEWEST_IN_A_SUM} or more, or the sum tells what "
            "one of them added. Add merchants first (pp-server merchants add)."
        )
    return tuple(Peer(name=name, key=key) for name, key in zip(chosen, keys, strict=True))


def _least(recipe: Recipe, merchants: int) -> int:
    from server.recipe import fewest_survivors

    return fewest_survivors(merchants, dishonest=recipe.dishonest) if recipe.trust == "secure_sum" else 2


def _epsilon(value: float) -> str:
    return f"{value:.3f}" if value < math.inf else "infinite"


def _plain(epsilons: Mapping[str, float]) -> dict[str, float | str]:
    return {name: value if value < math.inf else "inf" for name, value in epsilons.items()}


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """TOML has no word for nothing: a key that is not there says it."""
    return {key: value for key, value in table.items() if value is not None}


def _price(args: argparse.Namespace) -> int:
    home, _ = opened(args)
    price = price_of(read_plan(plan_file(home, args.plan)))
    if args.json:
        say_json({**price, **{table: _plain(price[table]) for table in ("epsilon", "secure_sum")}})
        return Exit.DONE
    rows = [(shops, _epsilon(value)) for shops, value in price["epsilon"].items()]
    show_table(("shops of one person", f"epsilon at delta {price['delta']:g}"), list(rows))
    for who, value in price["secure_sum"].items():
        say(f"epsilon at delta {price['delta']:g} {_LOOKERS[who]}: {_epsilon(value)}")
    if price["epsilon"]["1"] == math.inf:
        say("NO PRIVACY: merchants refuse it unless their policy allows training without.")
    say(
        f"{price['rounds']} rounds; about {_duration(price['seconds_estimate'])}, which is an estimate: a round takes "
        f"{price['seconds_estimate'] / price['rounds']:.1f} s where nobody is late, and at most "
        f"{price['seconds_a_round_at_most']:g} s."
    )
    say(f"Each merchant receives {price['megabytes_down']:.3f} MB a round and sends {price['megabytes_up']:.3f} MB.")
    return Exit.DONE


def price_of(plan: TrainingPlan) -> dict[str, Any]:
    """What a plan costs: epsilon by number of shops, rounds, seconds (an estimate), megabytes a merchant and round."""
    from pp_model.accounting import epsilon_spent
    from pp_model.integer_sum import secure_epsilons
    from pp_model.model import array_shapes, trainable_shapes

    every = plan.answer_every_seconds
    training = math.ceil(TRAINING_SECONDS / every) * every if every else TRAINING_SECONDS

    def megabytes(shapes: Mapping[str, tuple[int, ...]], *, of_each: float = 4e-6) -> float:
        return of_each * sum(map(math.prod, shapes.values()))

    return {
        "plan": plan.plan_id,
        "fingerprint": plan.fingerprint,
        "delta": plan.delta,
        "epsilon": {str(shops): epsilon_spent(plan.events, delta=plan.delta, merchants=shops) for shops in SHOPS},
        "secure_sum": secure_epsilons(plan) if plan.secure_sum else {},
        "rounds": plan.rounds,
        "seconds_estimate": plan.rounds * (ROUND_OVERHEAD_SECONDS + training),
        "seconds_a_round_at_most": plan.server.round_timeout_seconds * (2 if plan.secure_sum else 1) + 5,
        "megabytes_down": megabytes(array_shapes(plan.model)),
        "megabytes_up": megabytes(trainable_shapes(plan.model), of_each=8e-6 if plan.secure_sum else 4e-6),
    }


def _sign(args: argparse.Namespace) -> int:
    from agreement.offer import Offer, sign_offer
    from server.roster import Roster
    from server.run_folder import read_init

    home, config = opened(args)
    file = plan_file(home, args.plan)
    plan = read_plan(file)
    read_init(init_beside(file), plan)
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    if not 1 <= args.days <= 366:
        raise ConfigError(f"--days is {args.days}; allowed: 1 to 366")
    begins = _time(args.not_before, "--not-before") if args.not_before else now
    ends = _time(args.expires, "--expires") if args.expires else begins + dt.timedelta(days=args.days)
    if not now < ends:
        raise ConfigError(f"--expires is {ends:%Y-%m-%d %H:%M} UTC, which is past; give a later time")
    with Roster(home.registry) as roster:
        known = {merchant.name: merchant.fingerprint for merchant in roster.merchants()}
        audience = _audience(plan, args.merchants, known)
        offer = Offer(
            platform=config.name,
            serial=roster.next_serial(),
            issued=now,
            not_before=begins,
            expires=ends,
            audience=audience,
            plan=plan,
        )
    offer_file = file.with_name(f"{file.stem}.offer.json")
    write_private(offer_file, sign_offer(offer, home.signing_key()), replace=True)
    names = {fingerprint: name for name, fingerprint in known.items()}
    who = ", ".join(names.get(fingerprint, "all merchants") for fingerprint in audience)
    say(f"{offer_file}: offer {offer.id}, number {offer.serial}, for {who}, valid until {ends:%Y-%m-%d %H:%M} UTC")
    say(f"Offer it and train: {hint(home, f'run {args.plan}')}")
    return Exit.DONE


def _audience(plan: TrainingPlan, names: Sequence[str] | None, known: Mapping[str, str]) -> tuple[str, ...]:
    """Fingerprints of those that the offer is for.

    Raises:
        ConfigError: one that there is not; or of a secure sum, some that are not all of its merchants.
    """
    from agreement.offer import EVERYBODY

    chosen = _fingerprints(names, known) if names else None
    if plan.secure_sum is None:
        return chosen or EVERYBODY
    roster = tuple(peer.key for peer in plan.secure_sum.roster)
    if chosen and set(chosen) != set(roster):
        raise ConfigError(
            "a secure sum is offered to the merchants on its roster and to no others; leave --for out, or make the "
            "plan anew with pp-server plan new --with"
        )
    if gone := [peer.name for peer in plan.secure_sum.roster if known.get(peer.name) != peer.key]:
        raise ConfigError(f"merchant {gone[0]!r} was removed, or has a new key; make the plan anew: pp-server plan new")
    return roster


def _fingerprints(names: Sequence[str], known: Mapping[str, str]) -> tuple[str, ...]:
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"no merchant {unknown[0]!r}; there are: {', '.join(known) or 'none yet'}")
    return tuple(known[name] for name in dict.fromkeys(names))


def plan_file(home: PlatformHome, plan: str) -> Path:
    """The .toml file of a plan that is given by name or by path."""
    if plan.endswith(".toml"):
        return Path(plan).absolute()
    return home.plans / f"{checked_name(plan)}.toml"


def init_beside(file: Path) -> Path:
    """The starting point of the plan, or of the offer, in `file`."""
    return file.with_name(f"{file.name.partition('.')[0]}.init.safetensors")


def read_plan(file: Path) -> TrainingPlan:
    """The plan in a .toml file.

    Raises:
        CommandError: there is none.
        ConfigError: not TOML, or the key that is missing, unknown or wrong; or the plan has another name than its file.
    """
    from pp_model.config import from_mapping
    from pp_model.plan import TrainingPlan

    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
        plan = from_mapping(TrainingPlan, table)
    except FileNotFoundError:
        raise CommandError(Exit.BAD_INPUT, f"there is no {file}; make the plan with pp-server plan new") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML in UTF-8: {error}; correct it there") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    if plan.plan_id != checked_name(file.stem):
        raise ConfigError(f"{file}: plan_id is {plan.plan_id!r}; it must be the file's name, {file.stem!r}")
    return plan


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--holdout is {text!r:.40}; expected a date like 2025-05-01") from None


def _time(text: str, flag: str) -> dt.datetime:
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{flag} is {text!r:.40}; expected a time like 2025-02-01T12:00, in UTC") from None
    return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).astimezone(dt.UTC).replace(microsecond=0)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
