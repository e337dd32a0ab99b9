import logging
from collections.abc import Callable

import pytest

import client.task
from client.ledger import PlanUsedUpError, SealedReplyGoneError
from client.shop import Shop
from client.task import answer
from pp_model.errors import (
    AccountingError,
    ArraysError,
    BadOrdersError,
    BudgetExceededError,
    ConfigError,
    ExpiredError,
    LedgerError,
    NotApprovedError,
    PolicyError,
    ProtocolError,
    PurchasePowerError,
)
from pp_model.protocol import Anchor, Refusal, RefusalCode, Release, Task
from tests.support.shops import (
    CANARIES,
    CANARY_TEXT,
    charged,
    raiser,
    tiny_shop,
    tiny_task,
)

NOT_OURS = Anchor(ledger="0" * 64, seq=0, hash="0" * 64)
REFUSAL_KEYS = {"version", "kind", "task", "code"}

ANY_ERROR = [
    BadOrdersError(CANARY_TEXT, place=CANARY_TEXT, line=3, column="amount"),
    BudgetExceededError(spent=1, needed=2, budget=1),
    *(
        kind(CANARY_TEXT)
        for kind in (
            AccountingError,
            ArraysError,
            ConfigError,
            LedgerError,
            SealedReplyGoneError,
            PolicyError,
            NotApprovedError,
            ExpiredError,
            ProtocolError,
            PurchasePowerError,
            ArithmeticError,
            AssertionError,
            BufferError,
            ConnectionResetError,
            EOFError,
            FileNotFoundError,
            FloatingPointError,
            ImportError,
            IndexError,
            KeyError,
            MemoryError,
            NotImplementedError,
            PermissionError,
            RecursionError,
            RuntimeError,
            StopIteration,
            TimeoutError,
            TypeError,
            UserWarning,
            ValueError,
            ZeroDivisionError,
        )
    ),
    UnicodeDecodeError("utf-8", CANARY_TEXT.encode(), 0, 1, CANARY_TEXT),
    UnicodeEncodeError("ascii", CANARY_TEXT, 0, 1, CANARY_TEXT),
    ExceptionGroup(CANARY_TEXT, [ValueError(CANARY_TEXT)]),
    type("Unheard", (Exception,), {"__str__": lambda _: 1 / 0})(),
]


def found_canaries(text: str) -> list[str]:
    return [canary for canary in CANARIES if canary in text]


def name(error: BaseException) -> str:
    return type(error).__name__


def break_source(shop: Shop, error: BaseException, _: pytest.MonkeyPatch) -> None:
    shop.source.on_read = raiser(error)


def break_secret(shop: Shop, error: BaseException, _: pytest.MonkeyPatch) -> None:
    shop.secret = type("Broken", (), {"uniform": raiser(error)})()


def break_training(_: Shop, error: BaseException, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(client.task, "train_locally", raiser(error))


def break_agreed(shop: Shop, error: BaseException, _: pytest.MonkeyPatch) -> None:
    shop.agreed = raiser(error)


def break_ledger(method: str) -> Callable[[Shop, BaseException, pytest.MonkeyPatch], None]:
    def break_method(shop: Shop, error: BaseException, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(shop.ledger, method, raiser(error))

    return break_method


PLACES = {
    "source": break_source,
    "secret": break_secret,
    "training": break_training,
    "agreed": break_agreed,
    **{f"ledger-{method}": break_ledger(method) for method in ("check_anchor", "sealed", "charge", "seal")},
}


def replied(shop: Shop, task: Task) -> Release | Refusal:
    return answer(task.to_wire(), shop, anchor=NOT_OURS)


class MachineDownError(BaseException):
    """The merchant's process ends here."""


@pytest.mark.parametrize("place", ["source", "training", "ledger-seal"])
def test_after_a_crash_between_charge_and_seal_the_task_is_computed_under_its_one_charge(tmp_path, place, monkeypatch):
    shop, task = tiny_shop(tmp_path), tiny_task()
    with monkeypatch.context() as patch:
        PLACES[place](shop, MachineDownError(), patch)
        with pytest.raises(MachineDownError):
            replied(shop, task)
    shop.ledger.close()
    assert charged(tmp_path) == [task.fingerprint]
    assert isinstance(replied(tiny_shop(tmp_path), task), Release)
    assert charged(tmp_path) == [task.fingerprint]


@pytest.mark.parametrize("place", PLACES)
def test_whatever_fails_the_answer_is_a_code_of_the_list_and_nothing_else(tmp_path, place, monkeypatch, caplog, capfd):
    shop, task = tiny_shop(tmp_path), tiny_task()
    codes = [code.value for code in RefusalCode]
    for error in ANY_ERROR:
        with monkeypatch.context() as patch, caplog.at_level(logging.DEBUG):
            PLACES[place](shop, error, patch)
            wire = replied(shop, task).to_wire()
        assert (set(wire.scalars), wire.arrays) == (REFUSAL_KEYS, {}), name(error)
        assert wire.scalars["task"] == task.fingerprint
        assert wire.scalars["code"] in codes
        assert found_canaries(repr(wire)) == []
    logged = repr([vars(record) for record in caplog.records])
    assert found_canaries(logged + "".join(capfd.readouterr())) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SealedReplyGoneError("gone"), RefusalCode.ALREADY_ANSWERED),
        (BudgetExceededError(spent=1, needed=2, budget=1), RefusalCode.BUDGET),
        (LedgerError("damaged"), RefusalCode.LEDGER),
        (PolicyError("no"), RefusalCode.POLICY),
        (PlanUsedUpError(plan="f" * 64, charged=3, most_tasks=3), RefusalCode.POLICY),
        (NotApprovedError("no"), RefusalCode.NOT_APPROVED),
        (ExpiredError("late"), RefusalCode.EXPIRED),
        (ArraysError("nan"), RefusalCode.BAD_TASK),
        (ProtocolError("version"), RefusalCode.BAD_TASK),
        (BadOrdersError("bad", place="orders.csv"), RefusalCode.UNAVAILABLE),
        (MemoryError(), RefusalCode.UNAVAILABLE),
        (OSError("disk"), RefusalCode.UNAVAILABLE),
    ],
    ids=lambda value: name(value) if isinstance(value, Exception) else "",
)
def test_each_kind_of_trouble_has_its_code(tmp_path, error, code, monkeypatch):
    shop, task = tiny_shop(tmp_path), tiny_task()
    break_ledger("charge")(shop, error, monkeypatch)
    assert replied(shop, task) == Refusal(task=task.fingerprint, code=code)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()], ids=name)
def test_a_process_that_is_being_stopped_stops_and_says_nothing(tmp_path, place, stop, monkeypatch):
    shop = tiny_shop(tmp_path)
    PLACES[place](shop, stop, monkeypatch)
    with pytest.raises(type(stop)):
        replied(shop, tiny_task())
