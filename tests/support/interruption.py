"""A process that dies between two changes to a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest


class Killed(BaseException):
    """Nothing is cleaned up after it."""


@contextmanager
def killed_after(changes: int) -> Iterator[None]:
    """Inside the block so many renames and removals of files succeed; the next one, and all after it, never happen."""
    left = iter(range(changes))

    def dying(change):
        def run(*args, **options):
            if next(left, None) is None:
                raise Killed
            return change(*args, **options)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "rename", "unlink", "remove"):
            patch.setattr(os, name, dying(getattr(os, name)))
        with suppress(Killed):
            yield
