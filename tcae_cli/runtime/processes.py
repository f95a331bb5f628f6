"""Processes that belong to another one."""

import multiprocessing
import os


def leave_with_the_parent() -> None:
    """Wait for the process that started this one to go, by kill -9 too, and go with it; for a thread of its own."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
