"""TLS: which certificates count, and what a failed handshake means."""

import ssl
from functools import lru_cache

from broker.connections.link import NotRedis
from broker.connections.url import Address, TlsOptions
from broker.errors import AuthenticationFailed, BadUrl


def tls_context(address: Address) -> ssl.SSLContext | None:
    """The TLS settings of a URL; None: no TLS.

    Raises:
        BadUrl: a certificate file cannot be read.
    """
    if address.tls is None:
        return None
    try:
        return _context(address.tls)
    except OSError as error:
        files = ", ".join(filter(None, (address.tls.ca_certs, address.tls.certfile, address.tls.keyfile)))
        problem = f"its certificates ({files}) cannot be read: {error.strerror or error}"
        raise BadUrl(url=address.shown, problem=problem) from error


@lru_cache(maxsize=8)
def _context(options: TlsOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.ca_certs or None)
    context.check_hostname = options.check_hostname
    if not options.verify:
        context.verify_mode = ssl.CERT_NONE
    if options.certfile:
        context.load_cert_chain(options.certfile, options.keyfile or None)
    return context


def tls_failure(error: ssl.SSLError, address: Address) -> Exception:
    """What a failed TLS handshake means: not the server that was expected, or none that speaks TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return AuthenticationFailed(url=address.shown, error=f"its certificate: {error.verify_message}")
    return NotRedis(f"no TLS there: {error.reason or error}")
