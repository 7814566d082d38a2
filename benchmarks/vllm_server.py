"""A server as a process: started on a free port, waited for, ended. For benchmarks/vllm_bench.py and tests/vllm."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

PATIENCE = 600.0  # seconds until a server that does not answer counts as broken


@contextmanager
def running(command: Sequence[str], log: Path, **environment: str) -> Iterator[str]:
    """The address of a server that answers.

    Args:
        command: starts it; host and port are added.
        log: where its output goes.
        environment: variables on top of this process's.

    Raises:
        RuntimeError: it ended, or does not answer; the message holds the end of its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", port],
            stdout=output, stderr=output, env={**os.environ, **environment},
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        if not _answers(url, process):
            raise RuntimeError(f"the server did not start:\n{log.read_text()[-5000:]}")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until it does, or cannot any more."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urlopen(f"{url}/health", timeout=5):
            return True
        time.sleep(0.5)
    return False
