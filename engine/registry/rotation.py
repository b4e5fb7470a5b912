"""A new device key, safe against a kill at any moment: the trust root decides, the files follow.

The new key waits in ``keys/device-next.json`` until a root that names it is installed (one atomic
act). A rotation that was interrupted before that never happened; after it, whoever opens or writes
the registry next finishes it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from engine.registry import keys as keyring
from engine.registry.documents import KeyChange
from engine.registry.keys import SigningPair
from engine.registry.log import own_writer
from engine.supervise.crash import crash_point
from engine.supervise.durable import sync_folder, write_durably

if TYPE_CHECKING:
    from engine.registry.store import Store


def waiting(store: Store) -> SigningPair | None:
    """The key that is to replace this machine's, where a rotation has begun."""
    path = store.layout.keys / "device-next.json"
    return keyring.read_key(path) if path.exists() else None


def begin(store: Store) -> SigningPair:
    """Make the next key and keep it beside the present one. Under the registry's lock."""
    fresh = keyring.new_pair()
    write_durably(store.layout.keys / "device-next.json", keyring.key_file(fresh))
    crash_point("registry.rotate-made")
    return fresh


def finish(store: Store, note: str = "finished after an interruption") -> None:
    """Take over the next key where the root names it, else forget it. Under the registry's lock."""
    fresh = waiting(store)
    if fresh is None:
        return
    folder = store.layout.keys
    if store.trust.has_role(fresh.id, "device"):
        _replace(store, fresh)
        crash_point("registry.rotate-swapped")
        record_root(store, note)
        crash_point("registry.rotate-recorded")
    (folder / "device-next.json").unlink()
    sync_folder(folder)


def _replace(store: Store, fresh: SigningPair) -> None:
    """The old key is set aside first, so that at no moment a key exists nowhere."""
    folder = store.layout.keys
    old = keyring.device_key(folder)
    if old.id != fresh.id:
        aside = folder / f"device-{old.id[:16]}.retired.json"
        if not aside.exists():
            os.link(folder / "device.json", aside)
        write_durably(folder / "device.json", keyring.key_file(fresh))
    store.device = fresh
    own_writer(store.layout, fresh)


def record_root(store: Store, note: str) -> None:
    """The event of the newest root, where an interruption kept it from being written."""
    recorded = store.db().execute(
        "select 1 from events where type='keys' and json_extract(event, '$.body.root') >= ?",
        (store.trust.current.version,),
    )
    if recorded.fetchone() is None:
        store.commit(KeyChange(root=store.trust.current.version, note=note))
