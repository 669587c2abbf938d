"""Kernel error codes as small typed errors, and the errors of the engine itself.

A kernel function that returns ``-EAGAIN`` is a coroutine that raises :class:`EAGAIN`.
The class is the code: ``except EAGAIN`` reads like the kernel's ``if (err == -EAGAIN)``,
and ``error.errno`` is the positive number user space would see.
"""

from __future__ import annotations

import errno as _errno


class KernelError(Exception):
    """A negative kernel return value; ``errno`` is the positive number."""

    errno: int = 0

    @property
    def code(self) -> str:
        """The symbolic name without the sign, e.g. ``EAGAIN``."""
        return type(self).__name__


class EPERM(KernelError):
    errno = _errno.EPERM


class ENOENT(KernelError):
    errno = _errno.ENOENT


class EINTR(KernelError):
    errno = _errno.EINTR


class EIO(KernelError):
    errno = _errno.EIO


class EAGAIN(KernelError):
    errno = _errno.EAGAIN


class ENOMEM(KernelError):
    errno = _errno.ENOMEM


class EACCES(KernelError):
    errno = _errno.EACCES


class EFAULT(KernelError):
    errno = _errno.EFAULT


class EBUSY(KernelError):
    errno = _errno.EBUSY


class EEXIST(KernelError):
    errno = _errno.EEXIST


class ENODEV(KernelError):
    errno = _errno.ENODEV


class EINVAL(KernelError):
    errno = _errno.EINVAL


class ENOSPC(KernelError):
    errno = _errno.ENOSPC


class ENODATA(KernelError):
    errno = _errno.ENODATA


class ETIME(KernelError):
    errno = _errno.ETIME


class EOVERFLOW(KernelError):
    errno = _errno.EOVERFLOW


class EOPNOTSUPP(KernelError):
    errno = _errno.EOPNOTSUPP


class ECANCELED(KernelError):
    errno = _errno.ECANCELED


class ESRCH(KernelError):
    errno = _errno.ESRCH


class EPIPE(KernelError):
    errno = _errno.EPIPE


class EDEADLK(KernelError):
    errno = _errno.EDEADLK


class ENOLINK(KernelError):
    errno = _errno.ENOLINK


class ENOBUFS(KernelError):
    errno = _errno.ENOBUFS


class ETIMEDOUT(KernelError):
    errno = _errno.ETIMEDOUT


class EALREADY(KernelError):
    errno = _errno.EALREADY


class ENOTRECOVERABLE(KernelError):
    errno = _errno.ENOTRECOVERABLE


class ERESTARTSYS(KernelError):
    """Interrupted before anything was done; user space never sees it: the call is restarted or EINTR."""

    errno = 512


KERNEL_ERRORS: dict[str, type[KernelError]] = {
    cls.__name__: cls for cls in sorted(KernelError.__subclasses__(), key=lambda cls: cls.__name__)
}
BY_NUMBER: dict[int, type[KernelError]] = {cls.errno: cls for cls in KERNEL_ERRORS.values()}


class EngineError(Exception):
    """A run could not go on; the message says why in full sentences."""


class Deadlock(EngineError):
    """No task is enabled and no timer is pending; the text holds every pending op and the cycle."""


class StepBudgetSpent(EngineError):
    """The step budget ended before the scenario did: a suspected livelock, not yet a verdict.

    The text names the op that the last steps went into.
    """


class ReplayMismatch(EngineError):
    """A recorded choice does not fit the run; the text names the step, what was expected and what was there."""


class PropertyFailed(AssertionError):
    """An oracle saw something that must never be.

    ``oracle`` names the check and ``rule`` the digest id (``INV-05``, ``coherence`` ...).
    """

    def __init__(self, oracle: str, rule: str, text: str) -> None:
        super().__init__(f"{oracle} [{rule}]: {text}")
        self.oracle = oracle
        self.rule = rule
        self.text = text
