"""`import broker` loads each name when it is first used."""

import pytest

import broker
from tests.child import finished


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after some code."""
    return set(finished("-c", f"{code}\nimport sys; print(*sys.modules)").out.split())


def test_the_package_alone_loads_no_library():
    assert loaded_by("import broker").isdisjoint(
        {"redis", "pydantic", "msgpack", "broker.clients.trainer", "broker.clients.worker"}
    )


def test_the_package_alone_loads_nothing_slow():
    assert "pathlib" not in loaded_by("import broker") - loaded_by("pass")


@pytest.mark.parametrize("name", ["Trainer", "Worker", "Task"])
def test_a_client_loads_no_recovery_and_no_reports(name: str):
    assert loaded_by(f"from broker import {name}").isdisjoint(
        {
            "broker.recovery.recover",
            "broker.recovery.checkpoint",
            "broker.inspection.explanation",
            "broker.inspection.stats",
            "broker.tracing",
            "broker.weights",
            "http.client",
        }
    )


@pytest.mark.parametrize("name", broker.__all__)
def test_every_name_is_there(name: str):
    assert getattr(broker, name) is getattr(broker, name)
    assert name in dir(broker)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'broker' has no attribute 'Nonsense'"):
        _ = broker.Nonsense  # pyright: ignore[reportAttributeAccessIssue]


def test_no_client_needs_opentelemetry():
    code = (
        "import sys; sys.modules['opentelemetry'] = None; from broker import Trainer, Worker, aio; import broker.logs"
    )
    assert "broker.tracing" not in loaded_by(code)
    told = finished("-c", "import sys; sys.modules['opentelemetry'] = None; import broker.tracing")
    assert "install the extra `otel`" in told.err
