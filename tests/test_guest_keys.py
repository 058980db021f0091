"""The keys, in the forms that dropbear, OpenSSH and paramiko know them by."""

from __future__ import annotations

import base64
import struct

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vmtests.guest.keys import SEED_BYTES, Keys, dropbear, openssh_public

# RFC 8032, section 7.1, test 1.
SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def test_dropbear_format() -> None:
    key = Ed25519PrivateKey.from_private_bytes(SECRET)
    assert dropbear(key) == b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x40" + SECRET + PUBLIC


def test_openssh_format() -> None:
    key = Ed25519PrivateKey.from_private_bytes(SECRET)
    kind, blob = openssh_public(key).split()
    assert kind == "ssh-ed25519"
    assert base64.b64decode(blob) == struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32) + PUBLIC
    assert key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() == openssh_public(key)


def test_message() -> None:
    keys = Keys()
    *lines, end = keys.message().decode().splitlines()
    sent = {name: base64.b64decode(value) for name, value in (line.split() for line in lines)}
    assert end == "end"
    assert list(sent) == ["host-key", "authorized-key", "seed"]
    assert sent["host-key"] == dropbear(keys.host)
    assert sent["authorized-key"].decode() == openssh_public(keys.client) + "\n"
    assert len(sent["seed"]) == SEED_BYTES


def test_paramiko_takes_them() -> None:
    keys = Keys()
    signature = keys.identity().sign_ssh_data(b"data")
    public = paramiko.Ed25519Key(data=keys.identity().asbytes())
    assert public.verify_ssh_sig(b"data", paramiko.Message(signature.asbytes()))
    assert f"{public.get_name()} {public.get_base64()}" == openssh_public(keys.client)
    assert f"{keys.pinned().get_name()} {keys.pinned().get_base64()}" == openssh_public(keys.host)


def test_fresh_and_not_shown() -> None:
    first, second = Keys(), Keys()
    assert first.message() != second.message()
    assert repr(first) == "Keys()"
