"""Keys and the trust root as the CLI and the screens call them; a part of ``Artifacts``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from engine.types.artifacts import KeyView

if TYPE_CHECKING:
    from engine.registry import Registry
    from engine.registry.keys import SigningPair


class Keys:
    """The verbs of ``modelops-tui keys``. Passphrases come in as text and are never kept."""

    @property
    def registry(self) -> Registry:
        raise NotImplementedError

    @property
    def exists(self) -> bool:
        raise NotImplementedError

    def _need(self) -> Registry:
        raise NotImplementedError

    def _unlocked(self, passphrase: str | None, key: str | None) -> list[SigningPair]:
        from engine.registry.keys import unlock_release_key

        if passphrase is None:
            return []
        return [unlock_release_key(self.registry.layout.keys, passphrase, key)]

    def keys(self) -> tuple[KeyView, ...]:
        """Every key of the trust root; none where there is no registry yet (looking makes none)."""
        from engine.registry.authority import keys

        if not self.exists:
            return ()
        return keys(self.registry)

    def release_keys(self) -> tuple[str, ...]:
        """Names of the release keys on this machine that the trust root believes."""
        from engine.registry.keys import release_keys

        if not self.exists:
            return ()
        registry = self.registry
        return tuple(
            key.name
            for key in release_keys(registry.layout.keys)
            if registry.trust.has_role(key.id, "release")
            and key.id not in registry.trust.current.revoked
        )

    def device(self) -> dict[str, str]:
        """The device key of this machine, the registry, and the root to pin.

        It is there to be handed out, so a machine that has none yet gets one now.
        """
        from engine.registry.authority import public_text
        from engine.registry.keys import fingerprint

        registry = self.registry
        return {
            "public": public_text(registry.device),
            "fingerprint": fingerprint(registry.device.id),
            "registry": registry.id,
            "root": registry.trust.fingerprint,
            "writer": registry.writer,
        }

    def root_is_locked(self) -> bool:
        """True when changing the trust root takes a release key's passphrase."""
        if not self.exists:
            return False
        registry = self.registry
        return registry.device.id not in registry.trust.current.roles["root"].keys

    def create_release_key(
        self,
        name: str,
        new_passphrase: str,
        *,
        passphrase: str | None = None,
        key: str | None = None,
    ) -> KeyView:
        """Make a release key here; the first one takes over the root role."""
        from engine.registry.authority import create_release

        return create_release(self.registry, name, new_passphrase, self._unlocked(passphrase, key))

    def change_passphrase(self, old: str, new: str, *, key: str | None = None) -> None:
        """Encrypt a release key anew."""
        from engine.registry.keys import change_passphrase

        change_passphrase(self.registry.layout.keys, key, old, new)

    def add_key(
        self,
        public: str,
        role: Literal["device", "release"],
        owner: str,
        *,
        passphrase: str | None = None,
        key: str | None = None,
    ) -> KeyView:
        """Let another machine's or person's key in."""
        from engine.registry.authority import add_key

        return add_key(self.registry, public, role, owner, self._unlocked(passphrase, key))

    def revoke_key(
        self,
        which: str,
        reason: str,
        *,
        last_good: dict[str, int] | None = None,
        passphrase: str | None = None,
        key: str | None = None,
    ) -> dict[str, int]:
        """Stop believing a key; returns what of it is still believed (writer -> sequence)."""
        from engine.registry.authority import revoke

        return revoke(
            self._need(), which, reason, self._unlocked(passphrase, key), last_good=last_good
        )

    def rotate_device_key(
        self, *, passphrase: str | None = None, key: str | None = None
    ) -> KeyView:
        """Make a new device key here."""
        from engine.registry.authority import rotate_device

        return rotate_device(self._need(), self._unlocked(passphrase, key))

    def set_stage(
        self,
        name: str,
        role: Literal["device", "release"],
        threshold: int,
        *,
        before: str | None = None,
        passphrase: str | None = None,
        key: str | None = None,
    ) -> None:
        """Add a stage, or change who may move it."""
        from engine.registry.authority import set_stage

        set_stage(
            self.registry, name, role, threshold, self._unlocked(passphrase, key), before=before
        )

    def attest_public_pem(self) -> str:
        """The P-256 public key that ``model_signing verify key`` takes."""
        from engine.registry.modelsig import public_pem

        return public_pem(self._need().layout.keys).decode()
