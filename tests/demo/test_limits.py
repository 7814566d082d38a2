"""By which names a page answers that others may open."""

from __future__ import annotations

import socket

import pytest

from gridprune.demo.limits import is_own_name


@pytest.mark.parametrize("bound", ["0.0.0.0", "192.168.1.9", "gpu.lan", "::"])
def test_a_page_for_others_answers_by_address_and_by_its_own_names(bound):
    for name in ("192.168.1.9:7860", "[fe80::1]:7860", "localhost:7860", socket.gethostname()):
        assert is_own_name(name, bound)
    assert is_own_name("GPU.lan:7860", bound) == (bound == "gpu.lan")
    for name in ("evil.example", "192.168.1.9.evil.example:7860", "", "[::1"):
        assert not is_own_name(name, bound)


@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1"])
def test_a_page_for_this_machine_answers_to_it_alone(bound):
    for name in ("127.0.0.1:7860", "localhost:9000", "[::1]:7860"):
        assert is_own_name(name, bound)
    for name in ("192.168.1.9", "evil.example", "localhost.evil.example", socket.gethostname() + ".evil.example"):
        assert not is_own_name(name, bound)
