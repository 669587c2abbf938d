"""docs/distributed.md: its program runs on two local workers and prints what the page says; executors that fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import svm_actors

pytest.importorskip("distributed", reason="the extra `dask` is not installed")

ROOT = Path(svm_actors.__file__).parent.parent
PAGE = (ROOT / "docs" / "distributed.md").read_text("utf-8")


def test_the_example_runs_on_two_workers_as_shown(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (shown,) = re.findall(r"\$ python two_workers\.py\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "two_workers.py"
    path.write_text(program, "utf-8")
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.stdout == shown, done.stderr


DIES = """\
import os
import signal

from distributed import Client, LocalCluster

import svm_actors

if __name__ == "__main__":
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
        client.get_executor() as executor,
    ):
        campaign = svm_actors.fuzz("dies.py", executions=40, executor=executor, jobs=2, strategy="fifo")
    print(campaign.stopped_by, campaign.verdict)
    print(campaign.note)
"""
"""A campaign whose scenario kills its worker, whichever worker dask gives it to."""

SCENARIO = """\
import os
import signal


async def scenario(world):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_that_die_again_and_again_end_the_campaign_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(SCENARIO, "utf-8")
    (tmp_path / "main.py").write_text(DIES, "utf-8")
    done = subprocess.run(
        [sys.executable, "main.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    lines = done.stdout.splitlines()
    assert lines[:1] == ["workers none"], done.stderr
    assert lines[1].startswith("the executor gave up (KilledWorker: ")
    assert lines[1].endswith("under way was: run 0 (dies.py, seed 0/dies.py/0, fifo)")
