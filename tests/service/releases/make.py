"""Writes the store of `test_store_of_a_release.py` with the version that runs this:

    python -m tests.service.releases.make DIRECTORY

Run it before the format of the store changes, and add the archive, the secrets and the answers to the test.
Never replace an older archive: later versions have to open it, or to say why not.

The service is killed at the end, so the archive holds data in the index and data only in the log.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from milepost import Client, make_event, make_user_update
from milepost.cli.service_process import ServiceProcess
from milepost.criteria import attribute, consent, event, event_attribute
from milepost.outputs import FileOutput, WatchOutput
from milepost.v1.account_pb2 import SCOPE_READ
from milepost.v1.data_pb2 import CONSENT_STATE_DENIED, CONSENT_STATE_GIVEN, ConsentUpdate
from service import offline
from tests.harness import eventually

ACCOUNT = "acme"
USERS = 60
LATER_USERS = 10
ERASED, ALIAS, ALIASED = "user-59", "user-58", "user-57"
START = datetime(2026, 11, 1, tzinfo=UTC)
FLAGS = ("--groups", "2", "--log-level", "warning")
FORM = ("--checkpoint-s", "0.1"), ("--checkpoint-s", "100000", "--checkpoint-records", "1000000")
"""Flags of the first run, which checkpoints everything, and of the second, which checkpoints nothing."""
STATES = CONSENT_STATE_GIVEN, CONSENT_STATE_DENIED
PARTS = ("lock", "index/data.mdb", "log/data.mdb")


def fill(client: Client, outputs: Path) -> str:
    """Records of every kind, events, users. Returns the secret of a key that may read."""
    client.ensure_account()
    web, app = client.ensure_input("shop", "web"), client.ensure_input("shop", "app")
    client.upsert_users(
        [
            make_user_update(
                f"user-{number}",
                {"plan": ("free", "gold")[number % 2], "age": 20 + number, "tags": ["a", f"t{number % 3}"]},
                time=START,
                identities={"email": f"{number}@example.com"},
                consents=[ConsentUpdate(regulation="gdpr", purpose="mail", state=STATES[number % 2])],
            )
            for number in range(USERS)
        ],
        input=web.name,
    )
    client.ingest_events(
        [
            make_event(
                f"user-{number}",
                ("open", "buy")[turn % 2],
                START + timedelta(hours=turn, minutes=number),
                {"price": 10.5 * turn, "shelf": f"s{number % 4}"},
                event_id=f"{number}/{turn}",
            )
            for number in range(USERS)
            for turn in range(number % 5)
        ],
        input=app.name,
    )
    client.ensure_journey("spring", display_name="Spring")
    rich = event("buy", where=event_attribute("shelf").starts_with("s")).sum("price") >= 30
    client.ensure_milestone("spring", "rich", criteria=rich)
    client.ensure_milestone("spring", "gold", criteria=attribute("plan").equals("gold"))
    client.ensure_milestone("spring", "mail", criteria=consent("gdpr", "mail"))
    client.ensure_milestone("spring", "rest")
    for output, kind in (("files", FileOutput(path="files")), ("watch", WatchOutput())):
        made = client.ensure_output(output, kind)
        client.ensure_connection(f"{output}-gold", target="spring/gold", output=made.name)
        client.activate_connection(f"{output}-gold")
    members = client.count("spring/gold").users
    delivered = outputs / "acme" / "files" / "files-gold.ndjson"
    eventually(lambda: delivered.exists() and len(delivered.read_text().splitlines()) == members)
    client.alias_user(ALIAS, ALIASED)
    client.delete_users([ERASED])
    return client.create_api_key("reader", scopes=[SCOPE_READ]).secret


def add_to_the_log(client: Client) -> None:
    """What no checkpoint writes any more."""
    client.ingest_events(
        [make_event(f"later-{number}", "open", START + timedelta(days=1)) for number in range(LATER_USERS)],
        input="shop/web",
    )
    client.ensure_milestone(
        "spring", "gold", display_name="Gold plan", criteria=attribute("plan").equals("gold")
    )


def answers(client: Client) -> dict[str, object]:
    """What a store is asked, now and in any later version."""
    info = client.get_server_info()
    milestones = client.list_milestones("spring")
    return {
        "users": info.users,
        "events": info.events,
        "milestones": {each.display_name: client.count(each.name).users for each in milestones},
        "rich": sorted(client.list_members("spring/rich")),
        "alias": client.get_user(ALIAS).user_id,
        "checks": [client.check(user, "spring/gold") for user in ("user-1", "user-2", "later-1")],
        "connections": sorted(each.name.rpartition("/")[2] for each in client.list_connections()),
        "keys": [each.name.rpartition("/")[2] for each in client.list_api_keys()],
    }


def main(directory: Path) -> None:
    """Writes `store.tar.xz` and prints the secrets and the answers."""
    store = directory / "store"
    made = subprocess.run(
        [Path(sys.executable).parent / "milepost", "init", "--data-dir", store, "--groups", "2", "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    operator = json.loads(made.stdout)["secret"]
    first, second = FORM
    with (
        ServiceProcess(store, flags=(*FLAGS, *first)) as service,
        Client(service.target, account=ACCOUNT, api_key=operator) as client,
    ):
        reader = fill(client, store / "outputs")
    service = ServiceProcess(store, flags=(*FLAGS, *second))
    service.start()
    with Client(service.target, account=ACCOUNT, api_key=operator) as client:
        add_to_the_log(client)
        found = answers(client)
        service.kill()
    with tarfile.open(directory / "store.tar.xz", "w:xz") as archive:
        for part in PARTS:
            archive.add(store / part, part)
    version = offline.stats(store).format_version
    print(json.dumps({"format": version, "operator": operator, "reader": reader, "answers": found}, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
