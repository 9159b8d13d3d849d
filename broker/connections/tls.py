"""TLS: the options of a URL, and the context made of them."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from broker.connections.failures import FILES, Failure

#: The options of a URL that are about TLS.
TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"})


@dataclass(frozen=True, slots=True)
class Tls:
    """The TLS options of a URL.

    Attributes:
        ca_certs: file of the authorities to trust besides the system's, "": only those.
        certfile, keyfile: files of the client's own certificate and its key, "": it has none, or both are in one file.
        verify: whether the server's certificate is checked.
        check_hostname: whether it must be for the host of the URL.
    """

    ca_certs: str = ""
    certfile: str = ""
    keyfile: str = ""
    verify: bool = True
    check_hostname: bool = True

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Reads a URL's options; the server's certificate is checked unless they say not to.

        Raises:
            ValueError: an option has a value that means nothing, or lacks its companion.
        """
        reqs, check = options.get("ssl_cert_reqs", "required"), options.get("ssl_check_hostname", "true")
        if reqs not in ("required", "none"):
            raise ValueError("ssl_cert_reqs must be 'required' or 'none'")
        if check not in ("true", "false"):
            raise ValueError("ssl_check_hostname must be 'true' or 'false'")
        if "ssl_keyfile" in options and not options.get("ssl_certfile"):
            raise ValueError("ssl_keyfile needs ssl_certfile, the certificate of that key")
        verify = reqs == "required"
        ca_certs, certfile, keyfile = (options.get(f"ssl_{kind}", "") for kind in ("ca_certs", "certfile", "keyfile"))
        return cls(ca_certs, certfile, keyfile, verify, verify and check == "true")

    @classmethod
    def unverified(cls) -> Self:
        """TLS with whoever answers: to learn whether a server speaks it, never to send anything."""
        return cls(verify=False, check_hostname=False)

    def context(self) -> ssl.SSLContext:
        """How a connection speaks TLS. Made anew for each one, because certificates are renewed.

        Raises:
            Failure: a file of certificates cannot be read.
        """
        try:
            context = ssl.create_default_context()
            context.check_hostname = self.check_hostname
            context.verify_mode = ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE
            if self.ca_certs:
                context.load_verify_locations(self.ca_certs)
            if self.certfile:
                # A key with a pass phrase is refused: OpenSSL would ask for it on the terminal.
                context.load_cert_chain(self.certfile, self.keyfile or None, password="")
        except OSError as error:
            files = ", ".join(filter(None, (self.ca_certs, self.certfile, self.keyfile)))
            raise Failure(FILES, f"its certificates ({files}) cannot be read: {_why(error)}") from error
        return context


def _why(error: OSError) -> str:
    """Why files of certificates cannot be read, in words."""
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    if error.reason:
        return error.reason.lower().replace("_", " ")
    # OpenSSL has no reason for these: Python shows a line of its own source.
    return "there is no certificate or no key in them, or the key has a pass phrase"
