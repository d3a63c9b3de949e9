"""What the C library and the kernel are told about memory, seen from inside a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import ctypes, os, sys, threading
from sentinel_pipeline.infrastructure.allocator import keep_little_memory
libc = ctypes.CDLL(None)
if "keep little" in sys.argv:
    keep_little_memory()
    keep_little_memory()
if "run" in sys.argv:
    from sentinel_pipeline.bootstrap import run as ending
    ending.run_until = lambda *_, **__: 0
    ending.run(None)
meet = threading.Barrier(5)
def allocate():
    libc.free(ctypes.c_void_p(libc.malloc(100)))
    meet.wait(10)
libc.malloc.restype = ctypes.c_void_p
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
meet.wait(10)
for thread in threads: thread.join()
libc.fdopen.restype = ctypes.c_void_p
there, here = os.pipe()
stream = ctypes.c_void_p(libc.fdopen(here, b"w"))
libc.malloc_info(0, stream)
libc.fclose(stream)
print(os.read(there, 65536).count(b"<heap nr="), libc.prctl(42, 0, 0, 0, 0))  # 42: PR_GET_THP_DISABLE
"""


def probe(*arguments: str) -> tuple[int, int]:
    """Return how many arenas four threads have got, and whether there are no huge pages."""
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=True)
    arenas, no_huge_pages = done.stdout.split()
    return int(arenas), int(no_huge_pages)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is nothing to set")
def test_allocator_has_one_arena_for_all_threads_and_no_huge_pages() -> None:
    """Threads have arenas of their own by default; after ``keep_little_memory`` all share one, without huge pages."""
    arenas, _ = probe()
    assert arenas > 1
    assert probe("keep little") == (1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is nothing to set")
def test_program_sets_it_before_its_first_thread() -> None:
    """The thread that listens for signals has no arena of its own, which the others would share."""
    assert probe("run") == (1, 1)
