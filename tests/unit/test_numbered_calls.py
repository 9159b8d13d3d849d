"""The numbers of a trainer's calls, without a server: `prepare`, what came of it, `settle`; without it, it is unknown."""

from typing import Any

import pytest

from broker.errors import BrokerError, Early, Fenced, OldCall, Rewound
from broker.protocol.script_call import ScriptCall
from broker.protocol.trainer import CallId
from broker.trainer.numbered_calls import CallNumbers

TOKEN = "0123456789abcdef"


class Numbers:
    """Script calls that are only their call id."""

    def __init__(self) -> None:
        self.numbers = CallNumbers(TOKEN)

    def prepare(self, name: str = "call") -> list[ScriptCall[Any]]:
        def make(call_id: CallId) -> ScriptCall[Any]:
            assert (call_id.kind, call_id.id) == ("t", self.numbers.token)
            return ScriptCall(name, ("k",), call_id.args, lambda reply: reply)

        return self.numbers.prepare(make)

    @staticmethod
    def of(sent: list[ScriptCall[Any]]) -> list[tuple[str, Any]]:
        return [(script_call.script, script_call.args[2]) for script_call in sent]


def refusal(number: int) -> BrokerError:
    return Early(step=1, used_call=str(number))


def test_calls_are_numbered_from_one():
    numbers = Numbers()
    for number in (1, 2, 3):
        sent = numbers.prepare()
        assert numbers.of(sent) == [("call", number)]
        assert numbers.numbers.settle(sent, ["answer"]) == "answer"


def test_a_refusal_that_used_its_number_moves_on():
    numbers = Numbers()
    sent = numbers.prepare()
    with pytest.raises(Early):
        numbers.numbers.settle(sent, [refusal(1)])
    assert numbers.of(numbers.prepare()) == [("call", 2)]


@pytest.mark.parametrize("error", [Fenced(epoch="2.x"), BrokerError("OOM"), OldCall()])
def test_a_refusal_in_front_of_the_gate_uses_no_number(error: BrokerError):
    numbers = Numbers()
    sent = numbers.prepare()
    with pytest.raises(type(error)):
        numbers.numbers.settle(sent, [error])
    assert numbers.of(numbers.prepare()) == [("call", 1)]


def test_after_a_rewind_no_call_is_made_under_this_epoch():
    """Late copies of forgotten calls could fill the gap, and a later call be taken for one of them."""
    numbers = Numbers()
    numbers.numbers.settle(numbers.prepare(), ["a"])
    with pytest.raises(Rewound):
        numbers.numbers.settle(numbers.prepare(), [Rewound(call="2", last="0")])
    for _ in range(2):
        with pytest.raises(Rewound):
            numbers.prepare()
    numbers.numbers.restart("fedcba9876543210")
    assert numbers.of(numbers.prepare()) == [("call", 1)]


def test_what_got_no_answer_goes_first_with_its_own_number():
    numbers = Numbers()
    numbers.prepare("first")
    second = numbers.prepare("second")
    assert numbers.of(second) == [("first", 1), ("second", 2)]
    third = numbers.prepare("third")
    assert numbers.of(third) == [("first", 1), ("second", 2), ("third", 3)]
    assert [script_call.args for script_call in third[:2]] == [script_call.args for script_call in second]

    assert numbers.numbers.settle(third, ["a", "b", "c"]) == "c"
    assert numbers.of(numbers.prepare()) == [("call", 4)]


def test_unknown_calls_that_had_been_executed_are_told_by_their_old_numbers():
    """The server keeps only the newest answer: for the ones before, OLDCALL says that they happened."""
    numbers = Numbers()
    numbers.prepare("first")
    numbers.prepare("second")
    sent = numbers.prepare("third")
    assert numbers.numbers.settle(sent, [OldCall(call="1", last="2"), "b", "c"]) == "c"
    assert numbers.of(numbers.prepare()) == [("call", 4)]


def test_an_unknown_call_that_was_refused_does_not_hide_the_new_answer():
    numbers = Numbers()
    numbers.prepare("first")
    sent = numbers.prepare("second")
    assert numbers.numbers.settle(sent, [refusal(1), "b"]) == "b"
    assert numbers.of(numbers.prepare()) == [("call", 3)]


def test_a_fenced_unknown_call_is_raised_and_no_number_is_used():
    numbers = Numbers()
    numbers.prepare("first")
    sent = numbers.prepare("second")
    with pytest.raises(Fenced):
        numbers.numbers.settle(sent, [Fenced(epoch="2.x"), Fenced(epoch="2.x")])
    assert numbers.of(numbers.prepare()) == [("call", 1)]


def test_an_unknown_call_before_and_a_refused_call_now():
    numbers = Numbers()
    numbers.prepare("first")
    sent = numbers.prepare("second")
    with pytest.raises(Early):
        numbers.numbers.settle(sent, ["a", refusal(2)])
    assert numbers.of(numbers.prepare()) == [("call", 3)]


def test_an_unknown_call_before_and_a_full_server_now():
    """Out of memory is said before the script starts: the second number is still free, the first is used."""
    numbers = Numbers()
    numbers.prepare("first")
    sent = numbers.prepare("second")
    with pytest.raises(BrokerError, match="OOM"):
        numbers.numbers.settle(sent, ["a", BrokerError("OOM")])
    assert numbers.of(numbers.prepare()) == [("call", 2)]


def test_an_unknown_call_that_meets_a_full_server_stays_unknown_to_the_caller_but_not_to_the_numbers():
    numbers = Numbers()
    numbers.prepare("first")
    sent = numbers.prepare("second")
    with pytest.raises(BrokerError, match="OOM"):
        numbers.numbers.settle(sent, [BrokerError("OOM"), BrokerError("OOM")])
    assert numbers.of(numbers.prepare()) == [("call", 1)]


def test_a_new_epoch_starts_from_one():
    numbers = Numbers()
    numbers.numbers.settle(numbers.prepare(), ["a"])
    numbers.prepare()
    numbers.numbers.restart("fedcba9876543210")
    assert numbers.of(numbers.prepare()) == [("call", 1)]


def test_what_cannot_be_sent_uses_no_number():
    numbers = Numbers()
    numbers.prepare("first")
    numbers.numbers.unsent(numbers.prepare("second"))
    assert numbers.of(numbers.prepare("third")) == [("first", 1), ("third", 2)]
