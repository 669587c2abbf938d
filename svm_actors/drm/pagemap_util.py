"""Owner groups: who can take whose device pages in place (pagemap section 8).

A peer is a GPU VM or a pagemap; each stands on one device.  Peers of one group share one owner
cookie, which is ``dev_pagemap.owner`` and the owner a VM gives to hmm and to migrations.  A peer
joins the first group in which it has a fast interconnect to *all* members, else it founds one;
membership is never revisited.

The kernel's list mutex guards a section that does not sleep, so these calls are simply atomic.
The pagemap cache and its shrinker are in :mod:`pagemap_cache`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from svm_actors.engine.errors import EngineError

if TYPE_CHECKING:
    from svm_actors.gpu.gpu import Gpu


class Peer(Protocol):
    """Member of an owner group."""

    @property
    def name(self) -> str:
        """Stable name."""
        ...

    @property
    def gpu(self) -> Gpu:
        """The device it stands on."""
        ...


class Owner:
    """drm_pagemap_owner: the cookie, compared by identity."""

    __slots__ = ("name", "peers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.peers: list[Peer] = []
        """Members in the order they joined."""

    def __repr__(self) -> str:
        return f"<{self.name}: {', '.join(peer.name for peer in self.peers)}>"


def same_device(first: Gpu, second: Gpu) -> bool:
    """The narrowest interconnect: none but the device itself."""
    return first is second


class OwnerList:
    """drm_pagemap_owner_list: all groups of one driver."""

    def __init__(self, has_interconnect: Callable[[Gpu, Gpu], bool] = same_device) -> None:
        self.has_interconnect = has_interconnect
        """``(joining, member)``: can the first reach the second's memory fast?  Assumed symmetric."""
        self.owners: list[Owner] = []
        self._founded = 0

    def acquire_owner(self, peer: Peer) -> Owner:
        """drm_pagemap_acquire_owner: join or found a group."""
        for owner in self.owners:
            if self.reaches_all(peer, owner):
                break
        else:
            owner = Owner(f"owner{self._founded}")
            self._founded += 1
            self.owners.append(owner)
        owner.peers.append(peer)
        return owner

    def reaches_all(self, peer: Peer, owner: Owner) -> bool:
        """The new peer must reach every member, not just any (PGM-B42)."""
        return all(self.has_interconnect(peer.gpu, member.gpu) for member in owner.peers)

    def release_owner(self, peer: Peer, owner: Owner) -> None:
        """drm_pagemap_release_owner: leave, exactly once; an empty group goes."""
        if peer not in owner.peers:
            raise EngineError(f"{peer.name} leaves {owner.name}, of which it is no member")
        owner.peers.remove(peer)
        if not owner.peers:
            self.owners.remove(owner)
