"""Nothing leaves this machine: connections and name look-ups beyond it are refused, and counted.

Python announces both before they are made (audit events, PEP 578), and a hook that was added cannot be
taken out. A proxy on this machine would pass requests on: none is used. What native code opens by itself is not
seen here (on Windows asyncio's connections, too); that none does is shown by a lap in a network namespace without any
outside interface (`tests/test_privacy.py`).
"""

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

RECORD = "network.log"
"""In a run folder: one line for each attempt that was refused."""


LOOPBACK = {"localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}


class Refused(ConnectionError):
    """An attempt to reach another machine."""


@dataclass
class _Guard:
    hooked: bool = False
    closed: bool = False
    file: Path | None = None
    attempts: list[str] = field(default_factory=list)
    """All that this process has made."""


_guard = _Guard()


def close() -> None:
    """From here on this process reaches nobody beyond this machine."""
    if not _guard.hooked:
        sys.addaudithook(_watch)
        _guard.hooked = True
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    os.environ["NO_PROXY"] = "*"
    _guard.closed = True


@contextmanager
def opened() -> Iterator[None]:
    """Lets everything through, for what the user has allowed."""
    before, _guard.closed = _guard.closed, False
    try:
        yield
    finally:
        _guard.closed = before


def record_in(folder: Path) -> None:
    """Write attempts that are refused, earlier ones too, into a run folder."""
    if _guard.file is None:
        _append(folder / RECORD, _guard.attempts)
    _guard.file = folder / RECORD


def refused(folder: Path) -> list[str]:
    """What was refused in a run so far."""
    file = folder / RECORD
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def attempts() -> list[str]:
    """What was refused in this process so far."""
    return list(_guard.attempts)


def is_this_machine(host: str) -> bool:
    """Whether an address is this machine's own; of names only the loopback's are, since others are looked up."""
    name = host.lower().rstrip(".")
    if name in LOOPBACK or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback or address.is_unspecified:
        return True
    own = {found.address.partition("%")[0] for addresses in psutil.net_if_addrs().values() for found in addresses}
    return str(address) in own


def _watch(event: str, arguments: tuple) -> None:
    if not event.startswith("socket.") or not _guard.closed:
        return
    host = _destination(event, arguments)
    if host and host != socket.gethostname() and not is_this_machine(host):
        _note(f"{event.removeprefix('socket.')} {host}")
        raise Refused(
            f"{host} is beyond this machine, and nothing here may reach it: notes stay where they are; a model that is "
            "missing is downloaded by `onelap fetch`"
        )


def _destination(event: str, arguments: tuple) -> str:
    """The host that is meant; empty where none is, as for a socket in the file system."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        found = address[0] if isinstance(address, tuple) and address else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        found = arguments[0]
    elif event == "socket.getnameinfo":
        found = arguments[0][0]
    else:
        found = None
    if isinstance(found, bytes | bytearray):
        found = bytes(found).decode("ascii", "replace")
    return found if isinstance(found, str) else ""


def _note(attempt: str) -> None:
    _guard.attempts.append(attempt)
    if _guard.file is not None:
        _append(_guard.file, [attempt])


def _append(file: Path, lines: list[str]) -> None:
    if lines:
        with file.open("a", encoding="utf-8") as record:
            record.writelines(f"{line}\n" for line in lines)
