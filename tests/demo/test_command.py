"""`gridprune demo`: the address is bound before anything is loaded, and whatever fails there ends the command."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from gridprune.cli.demo import bind
from gridprune.errors import SettingError


def test_a_model_that_cannot_be_loaded_ends_the_command_with_its_reason(tmp_path):
    pytest.importorskip("gradio", reason="the page needs gridprune[demo]")
    from gridprune.cli.main import app

    result = CliRunner().invoke(app, ["demo", "--port", "0", "--model", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stdout == ""  # no address that would never answer
    assert "Could not load the folder" in result.stderr


def test_a_port_that_is_taken():
    with bind("127.0.0.1", 0) as where, pytest.raises(SettingError, match="another --port"):
        bind("127.0.0.1", where.getsockname()[1])


def test_who_comes_before_the_page_is_ready_waits_for_it():
    with bind("127.0.0.1", 0) as where, ThreadPoolExecutor() as pool:
        visitor = pool.submit(_first_byte, where.getsockname())
        served, _ = where.accept()
        with served:
            served.sendall(b"1")
        assert visitor.result(timeout=10) == b"1"


def _first_byte(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=10) as connection:
        return connection.recv(1)
