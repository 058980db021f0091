"""The keys of one guest: made for it, handed in after its start; on disk only beside a guest that may be kept."""

from __future__ import annotations

import base64
import io
import os
import struct
from dataclasses import dataclass, field

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

KIND = "ssh-ed25519"
SEED_BYTES = 64


def _string(data: bytes) -> bytes:
    """SSH's wire string: the length, big-endian, and the bytes (RFC 4251, section 5)."""
    return struct.pack(">I", len(data)) + data


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def dropbear(key: Ed25519PrivateKey) -> bytes:
    """Return the key as dropbear's key file holds it: the kind, then seed and public key in one string."""
    seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return _string(KIND.encode()) + _string(seed + _public(key))


def openssh_public(key: Ed25519PrivateKey) -> str:
    """Return the public key as a line of authorized_keys or known_hosts has it."""
    return f"{KIND} {base64.b64encode(_string(KIND.encode()) + _string(_public(key))).decode()}"


@dataclass(frozen=True)
class Keys:
    """A client's key, the guest's host key, and randomness for its /dev/urandom."""

    client: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate, repr=False)
    host: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate, repr=False)
    seed: bytes = field(default_factory=lambda: os.urandom(SEED_BYTES), repr=False)

    def message(self) -> bytes:
        """Return what the guest's init reads from the port org.vmtests.keys: lines `NAME BASE64`, then `end`."""
        entries = {
            "host-key": dropbear(self.host),
            "authorized-key": openssh_public(self.client).encode() + b"\n",
            "seed": self.seed,
        }
        lines = [f"{name} {base64.b64encode(data).decode()}\n" for name, data in entries.items()]
        return "".join([*lines, "end\n"]).encode()

    def private_openssh(self) -> str:
        """Return the client's private key as OpenSSH's key file holds it."""
        return self.client.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()

    def identity(self) -> paramiko.PKey:
        """Return the client's key for paramiko."""
        return paramiko.Ed25519Key(file_obj=io.StringIO(self.private_openssh()))

    def pinned(self) -> paramiko.PKey:
        """Return the host key that the guest must show, for paramiko."""
        return paramiko.Ed25519Key(data=_string(KIND.encode()) + _string(_public(self.host)))
