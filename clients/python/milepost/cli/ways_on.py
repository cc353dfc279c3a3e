"""How to go on after a refusal: the command that creates what is missing, or that lists what there is."""

from __future__ import annotations

import re
import socket

from milepost import names
from milepost.cli.defaults import account_option
from milepost.errors import AlreadyExists, MilepostError, NotFound, Unavailable

CREATING = {
    "workspaces": "workspace create {id}",
    "inputs": "input create {workspaces}/{id}",
    "journeys": "journey create {id}",
    "milestones": "milestone create {journeys}/{id} --criteria FILE",
    "outputs": "output create {id} --kind KIND",
    "connections": "connection create {id} --audience JOURNEY/MILESTONE --output OUTPUT",
    "apiKeys": "key create {id} --scope SCOPE",
}
"""By collection, the command that creates a resource of it. `{id}` is the id of the missing one."""
CHANGING = {
    "accounts": "account edit {id}",
    "workspaces": "workspace edit {id}",
    "inputs": "input edit {workspaces}/{id}",
    "journeys": "journey edit {id}",
    "milestones": "milestone edit {journeys}/{id}",
    "outputs": "output edit {id}",
    "connections": "connection edit {id}",
    "apiKeys": "key edit {id}",
}
"""By collection, the command that changes a resource of it."""
LISTING = {
    "workspaces": "workspace list",
    "inputs": "input list",
    "journeys": "journey list",
    "milestones": "milestone list {journeys}",
    "audiences": "audience list",
    "versions": "journey versions {journeys}",
    "outputs": "output list",
    "connections": "connection list",
    "apiKeys": "key list",
}
"""By collection, the command that lists what there is."""


_HINTS = {
    "INPUT_NOT_EMPTY": "`milepost user erase` erases users",
    "UNAUTHENTICATED": "--api-key or MILEPOST_API_KEY gives the key; `milepost key create` makes one",
    "CURSOR_EXPIRED": "`milepost watch AUDIENCE` without --cursor begins with all members",
    "JOURNEY_NOT_EMPTY": "--with-milestones deletes them too",
    "MILESTONE_HAS_CHILDREN": "`milepost milestone delete` deletes each, the lowest first",
}
"""By reason, what to do."""

_NO_CONNECTION = "failed to connect"
_UNREACHED = (
    (
        "Failed parsing HTTP/2",
        "that port answers, but not with gRPC: is it --http-port of the service? --target takes that of gRPC",
    ),
    (
        "missing selected ALPN property",
        "that port encrypts, but does not answer with gRPC: is it --http-port of the service? --target takes"
        " that of gRPC",
    ),
    ("WRONG_VERSION_NUMBER", "that port does not encrypt: leave out --tls and its files"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is of a CA that is not trusted here, or of another host: --tls-ca names a CA's file",
    ),
    (
        "Socket closed",
        "the service closed the connection: it may encrypt (--tls, --tls-ca), or ask for a certificate"
        " (--tls-cert, --tls-key)",
    ),
    ("Domain name not found", "no host has that name: --target is HOST:PORT"),
)
"""What gRPC says of a connection that it did not get, and what to do."""
_REFUSED_IPV6 = re.compile(r"ipv6:(?:\[|%5B)::1(?:\]|%5D):(\d+): .*Connection refused")
"""gRPC says only why the last address of a host failed. Where `localhost` has two, the reason is hidden."""
_PROBE_SECONDS = 1.0


def way_on(error: MilepostError) -> str:
    """What to do after an error; empty when there is nothing to say."""
    if isinstance(error, Unavailable) and not error.reason:
        # A running service gives a reason.
        return _unreached(error.message)
    if isinstance(error, NotFound):
        return _missing(error.metadata.get("resource", ""), error.near)
    if isinstance(error, AlreadyExists):
        return _existing(error.metadata.get("resource", ""))
    if error.reason == "CONNECTION_STATE" and "audience" in error.metadata:
        option = f"--audience {names.last_id(error.metadata['audience'])}"
        return f"`milepost connection create ID {option} --output OUTPUT --activate` activates it"
    if error.reason == "SCOPE_MISSING":
        scope = error.metadata.get("scope", "").removeprefix("SCOPE_").lower()
        option = "--operator" if scope == "operator" else f"--scope {scope}"
        return f"a key that may is made by `milepost key create KEY {option}`"
    if "oldest_time" in error.metadata:
        return f"--since {error.metadata['oldest_time']} replays all that is kept"
    return _HINTS.get(error.reason, "")


def creates_account(account_id: str, *, with_key: bool = False) -> str:
    """The command that creates an account. `with_key`: the call had a key, which the service may know to be
    another account's. It does not say so.
    """
    created = f"`milepost account create {account_id}` creates it"
    if not with_key:
        return created
    return f"{created}, with an operator's key; a key of an account sees only its own: name that by --account"


def _unreached(message: str) -> str:
    """What to do when there is no connection."""
    found = [hint for said, hint in _UNREACHED if said in message]
    has_been_connected = "Socket closed" in message and _NO_CONNECTION not in message
    if found and not has_been_connected:
        return found[0]
    refused = _REFUSED_IPV6.search(message)
    if refused is not None and _listens(int(refused[1])):
        address = f"127.0.0.1:{refused[1]}"
        return (
            f"something listens on {address}, but does not answer with gRPC as asked: is it --http-port of"
            f" the service, or does only one side use --tls? --target {address} tells more"
        )
    return "is the service running? `milepost serve` starts one"


def _listens(port: int) -> bool:
    """Whether something takes connections at that port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), _PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _existing(name: str) -> str:
    """The command for a resource that exists already."""
    collection, ids = _parts(name)
    if collection not in CHANGING:
        return ""
    option = "" if collection == "accounts" else _whose(ids)
    command = CHANGING[collection].format(id=names.last_id(name), **ids)
    return f"`milepost {command}{option}` changes it"


def _parts(name: str) -> tuple[str, dict[str, str]]:
    """The collection of a name, and the ids in it by collection."""
    parts = name.split("/")
    return parts[-2] if len(parts) > 1 else "", dict(zip(parts[::2], parts[1::2], strict=False))


def _whose(ids: dict[str, str]) -> str:
    """The option that says whose a resource is."""
    return account_option(ids["accounts"]) if "accounts" in ids else " --operator"


def _missing(name: str, near: str) -> str:
    """The commands for a resource that does not exist. `near` is one that may have been meant."""
    collection, ids = _parts(near or name)
    if collection == "accounts":
        return creates_account(ids["accounts"])
    if collection not in LISTING:
        return ""
    option = _whose(ids)
    said = [f"`milepost {LISTING[collection].format(**ids)}{option}` lists what there is"]
    if near:
        return f"did you mean {names.short(near)}? {said[0]}"
    if collection in CREATING:
        command = CREATING[collection].format(id=names.last_id(name), **ids)
        said.insert(0, f"`milepost {command}{option}` creates it")
    if collection == "audiences":
        said.append("and a milestone is written JOURNEY/MILESTONE")
    return ", ".join(said)
