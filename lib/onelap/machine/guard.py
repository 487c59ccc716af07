"""A guard that refuses connections and name look-ups beyond this machine, and records the attempts.

Python announces both before they happen (audit events, PEP 578), and an audit hook cannot be removed. Proxies are
disabled, because a proxy on this machine would pass requests on. The guard does not see connections that native code
opens by itself (on Windows also those of asyncio). That none is opened is shown by a lap in a network namespace
without an outside interface (`tests/test_privacy.py`).
"""

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import psutil

from onelap import UserError

LOG_NAME = "network.log"  # in a run folder: one line for each refused attempt
LOOPBACK_NAMES = {"localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}
NAME_LOOKUPS = {"getaddrinfo", "gethostbyname", "gethostbyaddr"}  # calls whose first argument is a host
ADDRESS_ARGUMENT = {"connect": 1, "sendto": 1, "sendmsg": 1, "getnameinfo": 0}  # position of (host, port) in a call


class NetworkRefused(ConnectionError):
    """An attempt to reach another machine was refused."""


_guard = SimpleNamespace(hooked=False, closed=False, log=None, attempts=[])  # of this process


def close() -> None:
    """Refuse, from here on, whatever this process sends beyond this machine."""
    if not _guard.hooked:
        sys.addaudithook(_watch)
        _guard.hooked = True
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    os.environ["NO_PROXY"] = "*"
    _guard.closed = True


@contextmanager
def allow_network() -> Iterator[None]:
    """Let connections through within a `with` block, for what the user has allowed."""
    before, _guard.closed = _guard.closed, False
    try:
        yield
    finally:
        _guard.closed = before


def record_in(folder: Path) -> None:
    """Log refused attempts into a run folder, those made before this call too."""
    earlier = [] if _guard.log else _guard.attempts
    _guard.log = folder / LOG_NAME
    _log(earlier)


def read_log(folder: Path) -> list[str]:
    """Read the attempts that were refused in a run so far, each as `call host`."""
    log = folder / LOG_NAME
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def attempts() -> list[str]:
    """List the attempts that were refused in this process so far, each as `call host`."""
    return list(_guard.attempts)


def check_address(url: str, allow_upload: bool) -> str:
    """Return the endpoint's address without a slash at the end. Raises UserError for one beyond this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"endpoint: expected an address such as http://localhost:11434/v1, found {url}")
    if not allow_upload and not is_this_machine(parts.hostname):
        raise UserError(
            f"endpoint: {parts.hostname} is not this machine, and your notes would be uploaded to it; use an address "
            "such as http://localhost:11434/v1, or set allow_upload: true"
        )
    return url.rstrip("/")


def is_this_machine(host: str) -> bool:
    """Tell whether an address belongs to this machine; of names, which a look-up could send away, the loopback's do."""
    name = host.lower().rstrip(".")
    if name in LOOPBACK_NAMES or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    own = (entry.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries)
    return address.is_loopback or address.is_unspecified or str(address) in own


def _watch(event: str, arguments: tuple) -> None:
    """Refuse what an audit event announces, where it would leave this machine."""
    if not _guard.closed or not event.startswith("socket."):
        return
    call = event.removeprefix("socket.")
    host = _host(call, arguments)
    if host and host != socket.gethostname() and not is_this_machine(host):
        _guard.attempts.append(f"{call} {host}")
        _log(_guard.attempts[-1:])
        raise NetworkRefused(
            f"{host} is beyond this machine, and nothing here may reach it: notes stay where they are; a model that is "
            "missing is downloaded by `onelap fetch`"
        )


def _host(call: str, arguments: tuple) -> str:
    """Return the host that a call names; empty where it names none, as for a socket in the file system."""
    if call in ADDRESS_ARGUMENT:
        arguments = arguments[ADDRESS_ARGUMENT[call]]
    elif call not in NAME_LOOKUPS:
        return ""
    host = arguments[0] if isinstance(arguments, tuple) and arguments else ""
    host = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else host
    return host if isinstance(host, str) else ""  # numbers, for a socket of another family


def _log(lines: list[str]) -> None:
    if _guard.log and lines:
        with _guard.log.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
