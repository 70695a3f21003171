"""Workers: in order, failing as they should, and gone when their parent is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs
import numpy as np
import pytest

import mtlora_jax
from mtlora_jax.errors import UserError
from mtlora_jax.input.prefetch import Prefetcher

pytestmark = pytest.mark.slow

KINDS = [(0, "process"), (2, "process"), (2, "thread")]


def alive(pids):
    return [pid for pid in pids if _state(pid) not in "ZX"]


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def wait_until_dead(pids):
    deadline = time.monotonic() + 60
    while alive(pids):
        assert time.monotonic() < deadline, f"workers {alive(pids)} outlive their parent"
        time.sleep(0.02)


def test_processes_take_turns_and_end_with_the_context():
    with Prefetcher(jobs.process_id, 2) as prefetcher:
        pids = list(prefetcher.run(range(6)))
        assert pids == pids[:2] * 3
        assert len({*pids, os.getpid()}) == 3
        assert alive(pids) == pids
    wait_until_dead(pids)


@pytest.mark.parametrize(("workers", "kind"), KINDS)
def test_results_come_in_order_also_after_a_run_was_given_up(workers, kind):
    with Prefetcher(jobs.large, workers, kind) as prefetcher:
        given_up = prefetcher.run(range(100))
        assert [next(given_up)[0] for _ in range(3)] == [0, 1, 2]
        for steps in ([7], [3, 1, 2], [], range(50, 56)):
            results = list(prefetcher.run(steps))
            assert [result[0] for result in results] == list(steps)
            assert all(np.all(result == result[0]) for result in results)


@pytest.mark.parametrize(("workers", "kind"), KINDS)
def test_errors_surface_in_their_turn_as_they_are(workers, kind):
    with Prefetcher(jobs.fail, workers, kind) as prefetcher:
        results = prefetcher.run(range(4))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(UserError) as error:
            next(results)
        assert str(error.value) == "image 2 is truncated"
        other_process = (workers, kind) == (2, "process")
        assert not other_process or "in fail" in error.value.__notes__[0]
        # What cannot be pickled is told in words.
        with pytest.raises(RuntimeError if other_process else jobs.Unpicklable) as error:
            next(prefetcher.run([3]))
        assert not other_process or str(error.value).startswith("Unpicklable: <function")
        assert next(prefetcher.run([5])) == 5


def test_a_worker_that_dies_is_told_of():
    with (
        Prefetcher(jobs.die, 1) as prefetcher,
        pytest.raises(UserError, match="a data worker died with exit code 9: out of memory"),
    ):
        list(prefetcher.run(range(3)))


def test_what_cannot_be_pickled_goes_to_threads():
    with pytest.raises(UserError, match=r"cannot be sent to worker processes .*--train\.worker_kind=thread"):
        Prefetcher(lambda step: step, 1)
    with Prefetcher(lambda step: step, 1, "thread") as prefetcher:
        assert list(prefetcher.run(range(3))) == [0, 1, 2]


PARENT = """
import os, signal, time
# A shell has its background jobs ignore interrupts, and they hand that on.
signal.signal(signal.SIGINT, signal.default_int_handler)
from mtlora_jax.input.prefetch import Prefetcher
def process_id(step):
    return os.getpid()
if __name__ == "__main__":
    results = Prefetcher(process_id, 2).run(range(10**6))
    print(next(results), next(results), flush=True)
    time.sleep({seconds})
"""


@pytest.mark.parametrize("end", ["exit", "SIGKILL", "SIGINT"])
def test_no_worker_outlives_its_parent_and_no_parent_hangs(tmp_path, end):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(seconds=0 if end == "exit" else 60))
    environment = {**os.environ, "PYTHONPATH": str(Path(mtlora_jax.__file__).parents[1])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, **pipes, env=environment, start_new_session=True) as parent:
        try:
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(pids) == 2
            if end == "SIGKILL":
                parent.kill()
            elif end == "SIGINT":
                # A terminal interrupts the whole group: workers are to leave that to their parent.
                for pid in pids:
                    os.kill(pid, signal.SIGINT)
                    os.kill(pid, signal.SIGTERM)
                time.sleep(0.3)
                assert alive(pids) == pids
                parent.send_signal(signal.SIGINT)
            error = parent.communicate(timeout=60)[1]
        finally:
            parent.kill()
    wait_until_dead(pids)
    # The parent's own at most; workers leave without a word.
    assert error.count("Traceback") == (end == "SIGINT")


def test_workers_import_neither_jax_nor_data_libraries():
    # The package's own front door is left out: a bare package takes its place.
    check = (
        "import sys, types; package = types.ModuleType('mtlora_jax');"
        f"package.__path__ = {list(mtlora_jax.__path__)!r}; sys.modules['mtlora_jax'] = package;"
        "import mtlora_jax.input.loader, mtlora_jax.cli;"
        "print(*{'jax', 'flax', 'grain', 'tyro', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
