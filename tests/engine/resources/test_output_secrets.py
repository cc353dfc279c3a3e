"""Secrets of outputs: encrypted in the store, never shown, kept by updates, replaced with an overlap."""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.fernet import Fernet

from engine.errors import FailedPrecondition, InvalidInput
from engine.resources.api_keys import ROTATION_OVERLAP_DEFAULT, ROTATION_OVERLAP_MAX
from engine.resources.records import Output, etag_of
from engine.resources.secret_keys import KEYS_MAX, SecretKeys
from engine.resources.targets import (
    TARGETS,
    Kafka,
    Nats,
    Redis,
    Target,
    Webhook,
    hide_passwords,
    passwords_in,
)
from engine.values import MICROS_PER_HOUR
from tests.engine.site import ACCOUNT, NOW, Site

SECRET = "whsec_" + base64.b64encode(b"0" * 24).decode()
SECOND = "whsec_" + base64.b64encode(b"1" * 24).decode()
THIRD = "whsec_" + base64.b64encode(b"2" * 24).decode()
HOOK = Webhook("https://user:correct-horse@example.org/hook", SECRET)


def create(site: Site, target: Target = HOOK, request_id: str = "") -> Output:
    record = Output(name="", target=target)
    return site.engine.connections.create_output(ACCOUNT, "hook", record, request_id)


def update(site: Site, known: Output, target: Target, overlap: int | None = None) -> Output:
    record = msgspec.structs.replace(known, target=target)
    return site.engine.connections.update_output(record, {"target"}, overlap=overlap)


def all_bytes(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


# --- at rest ------------------------------------------------------------------------------------------------


def test_no_secret_is_in_the_files_of_a_store(site: Site) -> None:
    created = create(site, request_id="once")
    update(site, created, msgspec.structs.replace(HOOK, secret=SECOND))
    site.engine.close()
    content = all_bytes(site.directory)
    assert b"example.org/hook" in content
    for secret in (SECRET, SECOND, "correct-horse"):
        assert secret.encode() not in content
    site.open()


def test_secrets_survive_a_restart(site: Site) -> None:
    created = create(site)
    site.engine.close()
    site.open()
    assert site.engine.connections.opened(created).target == HOOK


def test_the_key_is_made_with_the_first_secret_and_for_its_owner_alone(site: Site) -> None:
    before = os.umask(0)
    try:
        create(site, Kafka("h:9092", "t"))
        file = site.directory / "secrets.key"
        assert not file.exists()
        site.engine.connections.create_output(ACCOUNT, "other", Output(name="", target=HOOK))
    finally:
        os.umask(before)
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    assert [path.name for path in site.directory.iterdir() if path.name.startswith(".secret")] == []


def test_an_engine_without_a_key_file_takes_no_secrets() -> None:
    with pytest.raises(FailedPrecondition, match="no file for the key") as refused:
        SecretKeys(None).encrypt({"secret": SECRET})
    assert refused.value.reason == "SECRET_KEY_UNUSABLE"
    assert SecretKeys(None).encrypt({}) == b""


def test_a_key_of_a_process_fits_what_it_encrypted_itself() -> None:
    keys = SecretKeys.of_this_process()
    encrypted = keys.encrypt({"secret": SECRET})
    assert keys.decrypt(encrypted) == {"secret": SECRET}
    assert SecretKeys.of_this_process().decrypt(encrypted) is None


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "has 0 keys; 1 to 16 are expected"),
        (b"\n\nsecret\n", "line 3 of the key file .* is no key"),
        (b"A" * 43 + b"=\n" + b"A" * 42, "line 2 of the key file .* is no key"),
        ((Fernet.generate_key() + b"\n") * (KEYS_MAX + 1), "has 17 keys; 1 to 16 are expected"),
    ],
)
def test_a_key_file_that_is_none_is_refused_without_its_content(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(FailedPrecondition, match=fault) as refused:
        SecretKeys(file)
    assert "AAAA" not in refused.value.message


def test_a_key_file_that_has_to_exist_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="cannot be read: No such file"):
        SecretKeys(tmp_path / "keys", may_create=False)


def test_a_new_first_key_encrypts_everything_again(site: Site) -> None:
    created = update(site, create(site), msgspec.structs.replace(HOOK, secret=SECOND))
    file, new = site.directory / "secrets.key", Fernet.generate_key() + b"\n"
    file.write_bytes(new + file.read_bytes())
    site.engine.close()
    site.open()
    assert site.engine.connections.renew_secrets() == ()
    # Now the old one is no longer needed.
    file.write_bytes(new)
    site.engine.close()
    site.open()
    opened = site.engine.connections.opened(site.engine.connections.get_output(created.name))
    assert (opened.target, opened.previous) == (
        msgspec.structs.replace(HOOK, secret=SECOND),
        {"secret": SECRET},
    )
    assert site.engine.connections.renew_secrets() == ()


def test_without_its_key_a_store_says_which_outputs_need_their_secrets_again(site: Site) -> None:
    created = create(site)
    site.engine.connections.create_output(ACCOUNT, "plain", Output(name="", target=Kafka("h:9092", "t")))
    (site.directory / "secrets.key").unlink()
    site.engine.close()
    site.open()
    outputs = site.engine.connections
    assert outputs.renew_secrets() == (created.name,)
    with pytest.raises(FailedPrecondition, match=f"does not fit the secrets of {created.name}") as refused:
        outputs.opened(created)
    assert (refused.value.reason, refused.value.metadata) == (
        "SECRET_KEY_UNUSABLE",
        {"output": created.name},
    )
    # Other fields can be changed; the target needs everything that was secret.
    outputs.update_output(msgspec.structs.replace(created, display_name="Hook"), {"display_name"})
    with pytest.raises(InvalidInput) as lacking:
        update(site, created, created.target)
    assert [fault.field for fault in lacking.value.violations] == [
        "output.webhook.url",
        "output.webhook.secret",
    ]
    again = update(site, created, HOOK)
    assert (outputs.opened(again).target, outputs.opened(again).previous) == (HOOK, {})
    assert outputs.renew_secrets() == ()


def test_without_its_key_an_output_can_still_be_made_one_of_another_kind(site: Site) -> None:
    created = create(site)
    (site.directory / "secrets.key").unlink()
    site.engine.close()
    site.open()
    moved = update(site, created, Kafka("h:9092", "t"))
    assert (moved.secrets, site.engine.connections.opened(moved).target) == (b"", Kafka("h:9092", "t"))
    assert site.engine.connections.renew_secrets() == ()


def test_a_copied_store_with_its_key_file_needs_nothing(site: Site, tmp_path: Path) -> None:
    created = create(site)
    shutil.copy(site.directory / "secrets.key", tmp_path / "kept")
    assert SecretKeys(tmp_path / "kept", may_create=False).decrypt(created.secrets) == {
        "secret": SECRET,
        "url": HOOK.url,
    }


# --- shown --------------------------------------------------------------------------------------------------


def test_what_is_stored_and_shown_has_no_secret(site: Site) -> None:
    created = create(site, request_id="once")
    assert created.target == Webhook("https://user:***@example.org/hook")
    assert created == site.engine.connections.get_output(created.name) == create(site, request_id="once")
    assert created.target.shown() == {"url": "https://user:***@example.org/hook", "mode": "batched"}
    assert HOOK.shown() == created.target.shown()


@pytest.mark.parametrize(
    ("url", "shown", "passwords"),
    [
        ("https://example.org/a@b", "https://example.org/a@b", ()),
        ("https://u:p@h/x", "https://u:***@h/x", ("p",)),
        ("https://token@h/x", "https://***@h/x", ("token",)),
        ("redis://:p%40ss@h:6379/0", "redis://:***@h:6379/0", ("p%40ss",)),
        ("redis://h?password=p&db=1", "redis://h?password=***&db=1", ("p",)),
        ("nats://h1:4222,nats://u:p@h2:4222", "nats://h1:4222,nats://u:***@h2:4222", ("p",)),
        ("nats://u:a,b@h", "nats://u:***@h", ("a,b",)),
        ("u:p@h1:4222,token@h2", "u:***@h1:4222,***@h2", ("p", "token")),
        ("h1:4222,h2:4222", "h1:4222,h2:4222", ()),
        ("", "", ()),
    ],
)
def test_passwords_in_urls(url: str, shown: str, passwords: tuple[str, ...]) -> None:
    assert hide_passwords(url) == shown
    assert hide_passwords(shown) == shown
    assert passwords_in(url) == passwords


@pytest.mark.parametrize("kind", TARGETS)
def test_what_a_kind_conceals_is_restored(kind: str) -> None:
    struct = TARGETS[kind]
    required = [field.name for field in msgspec.structs.fields(struct) if field.required]
    values: dict[str, Any] = {
        **dict.fromkeys(required, "scheme://user:pass@host"),
        **dict.fromkeys(struct.secrets, "hush"),
    }
    target = struct(**values)
    secrets = target.secret_values()
    assert set(secrets) == set(struct.secrets | struct.urls)
    assert target.concealed().revealed(secrets) == target
    assert not {"hush", "pass"} & set(map(str, target.concealed().shown().values()))
    assert target.concealed().concealed() == target.concealed()


# --- updates ------------------------------------------------------------------------------------------------


def test_an_update_keeps_what_is_not_given(site: Site) -> None:
    created = create(site)
    moved = update(site, created, Webhook("https://b.example"))
    assert site.engine.connections.opened(moved).target == Webhook("https://b.example", SECRET)
    assert (moved.previous_secrets, moved.previous_expire_time) == (b"", 0)


def test_a_password_is_kept_for_its_url_and_sent_to_no_other(site: Site) -> None:
    created = create(site, Redis("redis://:pass@h:6379", "s"))
    kept = update(site, created, Redis("redis://:***@h:6379", "t"))
    assert site.engine.connections.opened(kept).target == Redis("redis://:pass@h:6379", "t")
    with pytest.raises(InvalidInput) as refused:
        update(site, kept, Redis("redis://:***@evil:6379", "t"))
    assert [(fault.field, fault.description) for fault in refused.value.violations] == [
        ("output.redis.url", "has *** for a password: give the password itself")
    ]
    with pytest.raises(InvalidInput):
        site.engine.connections.create_output(ACCOUNT, "x", Output(name="", target=Nats("u:***@h", "s")))


def test_a_new_secret_leaves_the_one_before_valid_for_an_overlap(site: Site) -> None:
    outputs, created = site.engine.connections, create(site)
    second = update(site, created, msgspec.structs.replace(HOOK, secret=SECOND))
    opened = outputs.opened(second)
    assert (opened.target.secret_values()["secret"], opened.previous) == (SECOND, {"secret": SECRET})
    assert second.previous_expire_time == NOW + ROTATION_OVERLAP_DEFAULT
    assert etag_of(second) != etag_of(created)
    # The same one again changes nothing, and no more than two are valid.
    assert outputs.opened(update(site, second, msgspec.structs.replace(HOOK, secret=SECOND))).previous == {
        "secret": SECRET
    }
    third = update(site, second, msgspec.structs.replace(HOOK, secret=THIRD), MICROS_PER_HOUR)
    assert outputs.opened(third).previous == {"secret": SECOND}
    assert third.previous_expire_time == NOW + MICROS_PER_HOUR
    # A secret that leaked signs nothing more.
    last = update(site, third, HOOK, 0)
    assert (last.previous_secrets, last.previous_expire_time) == (b"", 0)


@pytest.mark.parametrize("overlap", [-1, ROTATION_OVERLAP_MAX + 1])
def test_an_overlap_has_a_limit(site: Site, overlap: int) -> None:
    created = create(site)
    with pytest.raises(InvalidInput, match="secret_overlap: must be 0 to 30 days"):
        update(site, created, HOOK, overlap)


def test_another_kind_has_no_previous_secret(site: Site) -> None:
    second = update(site, create(site), msgspec.structs.replace(HOOK, secret=SECOND))
    other = update(site, second, Kafka("h:9092", "t"))
    assert (other.secrets, other.previous_secrets, other.previous_expire_time) == (b"", b"", 0)
