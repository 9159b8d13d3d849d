from __future__ import annotations

import inspect
import pickle
import re

import pytest

from broker import errors
from broker.errors import BrokerError
from broker.errors.from_reply import from_reply

CODES = {
    "FENCED": "Fenced",
    "REWOUND": "Rewound",
    "NORUN": "NoRun",
    "SCHEMA": "SchemaMismatch",
    "CONFIG": "ConfigMismatch",
    "EARLY": "Early",
    "TOOMANY": "TooMany",
    "DIGEST": "DigestMismatch",
    "OLDCALL": "OldCall",
    "OLDREQUEST": "OldRequest",
    "NOSESSION": "NoSession",
    "RECOVERING": "Recovering",
    "GONE": "Gone",
    "BADARG": "BadArgument",
    "NORESULT": "NoResult",
    "TOOBIG": "TooBig",
    "LOST": "HandlersLost",
    "EXHAUSTED": "Exhausted",
    "UNAVAILABLE": "ServerUnavailable",
    "UNSUPPORTED": "UnsupportedServer",
    "OOM": "OutOfMemory",
    "UNDONE": "Undone",
    "CHECKPOINT": "CheckpointError",
    "WEIGHTS": "WeightsUnavailable",
    "AUTH": "AuthenticationFailed",
    "TLS": "CertificateRefused",
    "READONLY": "ReadOnlyServer",
    "CODEC": "CodecError",
    "BADURL": "BadUrl",
    "NAME": "BadName",
    "TIMEOUT": "WaitTimeout",
    "FINISHED": "RunFinished",
    "HALTED": "RunHalted",
}


@pytest.mark.parametrize(("code", "name"), CODES.items())
def test_every_code_has_its_class(code: str, name: str) -> None:
    error = from_reply(f"{code} run=a")
    assert type(error) is getattr(errors, name)
    assert error.code == code
    assert error.fields == {"run": "a"}


def test_no_class_is_without_a_code_in_the_table() -> None:
    kinds = {kind.code for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BrokerError)}
    assert kinds - {"ERROR"} == set(CODES)


@pytest.mark.parametrize("name", CODES.values())
def test_every_class_makes_a_sentence_without_any_field(name: str) -> None:
    text = str(getattr(errors, name)())
    assert len(text) > 20
    assert "{" not in text


def test_values_of_a_reply_are_unescaped() -> None:
    error = from_reply("CONFIG field=on_stale stored=a%20b%3D%25 given=")
    assert error.fields == {"field": "on_stale", "stored": "a b=%", "given": ""}


def test_an_unknown_code_keeps_its_code() -> None:
    error = from_reply("NEWCODE step=3")
    assert type(error) is BrokerError
    assert (error.code, error.fields) == ("NEWCODE", {"step": "3"})
    assert "step=3" in str(error)
    assert "NEWCODE" in str(error)


def test_the_servers_own_errors_keep_their_text() -> None:
    error = from_reply("OOM command not allowed when used memory > 'maxmemory'.")
    assert type(error) is errors.OutOfMemory
    assert "used memory > 'maxmemory'" in str(error)
    assert from_reply("ERR unknown command 'A=b'").fields == {"message": "unknown command 'A=b'"}


@pytest.mark.parametrize("code", ["NOAUTH", "WRONGPASS", "NOPERM"])
def test_the_servers_words_for_a_refused_user_become_one_class(code: str) -> None:
    error = from_reply(f"{code} you shall not pass")
    assert type(error) is errors.AuthenticationFailed
    assert error.code == "AUTH"


@pytest.mark.parametrize("text", ["", " ", "A", "A  b", "%% =", "FENCED =x", "é ü=1"])
def test_any_reply_becomes_an_error(text: str) -> None:
    error = from_reply(text)
    assert error.code
    assert str(error)


def test_a_sentence_says_what_happened_to_what_and_what_to_do() -> None:
    text = str(errors.ConfigMismatch(field="max_staleness", stored=2, given=3, run="math"))
    assert text == (
        "the run is stored with max_staleness=2, but max_staleness=3 was given (run=math): "
        "give the stored value or leave the field out; to change it, open the run with update=True, or call "
        "`trainer.configure`, or `broker configure` while a trainer runs [CONFIG]"
    )


def test_a_recovery_below_the_floor_is_told_its_ways_out() -> None:
    text = str(from_reply("GONE version=3 floor=5 steps=2"))
    assert text == (
        "cannot recover to version 3, the oldest one still recoverable is 5, tasks that 2 steps trained on are freed: "
        "recover from a newer checkpoint, or do without those tasks with allow_loss=True (--allow-loss) [GONE]"
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.Exhausted(left=1, step=3, n=4), "1 task is left in the run,"),
        (errors.Exhausted(left=0, n=4), "0 tasks are left in the run,"),
        (
            from_reply("EXHAUSTED left=1 step=3 n=4 dead=1 rejected=1 freed=1 reasons=x"),
            "1 task is dead and 1 rejected",
        ),
        (from_reply("GONE version=3 floor=5 steps=1"), "tasks that 1 step trained on"),
        (from_reply("EARLY version=3 open=1"), "1 rollout is in the open one"),
        (from_reply("TOOMANY n=1 step=3 bound=0"), "a batch of 1 rollout for step 3"),
    ],
)
def test_numbers_have_their_nouns(error: BrokerError, words: str) -> None:
    assert words in str(error)


@pytest.mark.parametrize("text", ["OOM command not allowed when used memory > 'maxmemory'.", "NEWCODE no."])
def test_a_full_stop_of_the_server_is_not_within_the_sentence(text: str) -> None:
    assert not re.search(r"\.\s*[:[(]", str(from_reply(text)))


def test_missing_rights_are_not_advised_to_look_at_the_password() -> None:
    refused = errors.AuthenticationFailed(url="redis://h", error="NOPERM User x has no permissions to run 'get'")
    assert "password" not in str(refused)
    assert "give that user the right" in str(refused)
    assert "password" in str(errors.AuthenticationFailed(url="redis://h", error="WRONGPASS no"))


def test_a_batch_that_is_gone_is_told_when_it_should_be_read() -> None:
    text = str(from_reply("GONE step=3"))
    assert "the batch of step 3 does not exist any more: read a batch before the second advance after it" in text
    assert "allow" not in text


@pytest.mark.parametrize("reply", ["BADARG argument=n given=0 low=1 high=9", "TOOMANY n=5 step=3 bound=4"])
def test_the_number_of_the_call_is_for_the_client_and_not_in_the_sentence(reply: str) -> None:
    error = from_reply(f"{reply} used_call=6")
    assert error.fields["used_call"] == "6"
    assert str(error) == str(from_reply(reply))


def test_braces_in_a_field_are_shown_as_they_are() -> None:
    assert "{x} {" in str(errors.BadArgument(problem="{x} {"))


def test_a_long_field_is_shortened_in_the_sentence_only() -> None:
    error = errors.BadArgument(problem="x" * 10_000)
    assert len(str(error)) < 500
    assert len(error.fields["problem"]) == 10_000


@pytest.mark.parametrize("name", CODES.values())
def test_errors_survive_pickling(name: str) -> None:
    error = getattr(errors, name)(run="a", step=3)
    error.add_note("seen by rank 1")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - what was just written
    assert type(copy) is type(error)
    assert (copy.code, copy.fields, str(copy), repr(copy)) == (error.code, error.fields, str(error), repr(error))
    assert copy.__notes__ == ["seen by rank 1"]


def test_an_unknown_code_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(BrokerError("NEWCODE", code="x")))  # noqa: S301 - what was just written
    assert (copy.code, copy.fields) == ("NEWCODE", {"code": "x"})


def test_errors_that_python_has_a_class_for_are_of_it_too() -> None:
    assert issubclass(errors.BadName, ValueError)
    assert issubclass(errors.BadArgument, ValueError)
    assert issubclass(errors.BadUrl, ValueError)
    with pytest.raises(TimeoutError):
        raise errors.WaitTimeout(what="batch 3", seconds=2)


def test_reject_is_a_verdict_and_not_an_error_of_the_broker() -> None:
    assert not issubclass(errors.Reject, BrokerError)
    verdict = pickle.loads(pickle.dumps(errors.Reject("no answer found")))  # noqa: S301 - what was just written
    assert verdict.reason == str(verdict) == "no answer found"
