"""A server, and what keeps the spans of a test."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from broker.local_server.embedded import EmbeddedServer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    server = EmbeddedServer(port=0)
    yield server.url
    server.stop()


@pytest.fixture
def exporter() -> Generator[InMemorySpanExporter]:
    # OpenTelemetry need not be installed: then the modules of tests are left out, and no test asks for this.
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from broker import tracing

    made, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    tracing.install(provider)
    yield made
    tracing.uninstall()
