"""Guards of the notifier protocol that more than one race depends on, taken away."""

from svm_actors.mm.mmu_notifier import MmuNotifierSubscriptions


def no_wait_in_read_begin(patch):
    """MM-B51: a reader does not sleep in an odd period."""

    async def read_begin(subs, sub):
        await subs.engine.step("seq_read", subs, sub.name)
        return sub.seq

    patch.setattr(MmuNotifierSubscriptions, "read_begin", read_begin)


def remove_without_waiting(patch):
    """MM-B05: remove returns while callbacks may still come."""

    async def remove(subs, sub):
        await subs.engine.step("seq_write", subs, f"remove {sub.name}")
        if subs.sequence.value & 1:
            subs.deferred.append(sub)
        else:
            subs.tree.remove(sub)
            sub.subscribed = False
        sub.mm.drop()

    patch.setattr(MmuNotifierSubscriptions, "remove", remove)
