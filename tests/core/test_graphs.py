"""When work is recorded, replayed, given up or refused, with a make-believe recorder."""

from __future__ import annotations

import threading
import time
import warnings

import pytest
import torch
from torch import nn

from accelerator import DEVICE, Accelerator
from gridprune.core.graphs import FIRST_CALLS, Graphs, each_tensor, fingerprint, tensors_of
from gridprune.core.token_map import TokenMap
from gridprune.methods.base import Cues
from recorder import Replay, make_believe


@pytest.fixture(autouse=True)
def accelerator():
    with Accelerator(), torch.no_grad():
        yield


def there(*values):
    return torch.tensor(values, dtype=torch.float32, device="cpu").to(DEVICE)


def double(x):
    return x * 2


def test_the_third_call_is_recorded_and_results_are_not_written_over():
    graphs = make_believe()
    found = [graphs.run("double", double, there(step, 1.0)) for step in range(6)]
    assert [each.tolist() for each in found] == [[2.0 * step, 2.0] for step in range(6)]
    assert (graphs._recorder.recorded, graphs._recorder.replayed) == (1, 6 - FIRST_CALLS)


def test_a_graph_is_of_one_key_and_one_kind_of_input():
    graphs = make_believe()
    table = there(*range(12)).view(3, 4)
    inputs = [("a", table), ("b", table), ("a", table.t()), ("a", table[:2]), ("a", table.double())]
    for key, x in inputs * 4:
        assert torch.equal(graphs.run(key, double, x).cpu(), x.cpu() * 2)
    assert len(graphs) == graphs._recorder.recorded == len(inputs)


def test_inputs_on_the_host_are_part_of_the_key():
    graphs = make_believe()

    def scaled(x, by):
        return x * by.tolist()[0]

    for factor in (2, 3) * 4:
        found = graphs.run("scaled", scaled, there(1.0), torch.tensor([factor], device="cpu"))
        assert found.tolist() == [factor]
    assert len(graphs) == 2


def test_nothing_is_recorded_where_it_cannot_be(monkeypatch):
    graphs = make_believe()

    def calls():
        for _ in range(5):
            assert graphs.run("double", double, there(1.0)).tolist() == [2.0]

    with torch.enable_grad():
        calls()
    with monkeypatch.context() as patched:
        patched.setattr(torch, "is_autocast_enabled", lambda *kind: True)
        calls()
    with monkeypatch.context() as patched:
        patched.setattr(torch.compiler, "is_compiling", lambda: True)
        calls()
    with monkeypatch.context() as patched:
        patched.setattr(graphs._recorder, "able", lambda device: False)  # another recording is under way
        calls()
    for _ in range(5):
        assert graphs.run(None, double, there(1.0)).tolist() == [2.0]
        assert graphs.run("on the host", double, torch.ones(1, device="cpu")).tolist() == [2.0]
    assert graphs._recorder.recorded == 0
    calls()
    assert graphs._recorder.recorded == 1


def test_what_waits_for_the_device_is_told_once_and_stays_right():
    graphs = make_believe()
    with pytest.warns(UserWarning, match=r"could not record a CUDA graph.*reads_values") as told:
        found = [graphs.run("reads", lambda x: x * x.sum().item(), there(step)).tolist() for step in range(6)]
    assert found == [[step * step] for step in range(6)]
    assert len(told) == 1
    assert len(graphs) == 0
    for step in range(5):
        assert graphs.run("double", double, there(step)).tolist() == [2.0 * step]
    assert len(graphs) == 1


def test_graphs_unused_for_longest_go_first():
    graphs = Graphs(Replay(), most_bytes=3 * (1 << 22))  # two small graphs, and no third
    for key in ("a", "b", "a", "a", "b", "b", "a"):
        graphs.run(key, double, there(1.0))
    assert [key[0] for key in graphs._graphs] == ["b", "a"]
    for _ in range(3):
        assert graphs.run("c", double, there(4.0)).tolist() == [8.0]
    assert [key[0] for key in graphs._graphs] == ["a", "c"]
    for _ in range(5):
        graphs.run("large", double, torch.zeros(4 << 20, device=DEVICE))  # 16 MiB alone
    assert [key[0] for key in graphs._graphs] == ["a", "c"]


def test_shapes_in_turns_do_not_record_each_other_away():
    graphs = Graphs(Replay(), most_bytes=3 * (1 << 22))
    for _ in range(20):
        for size in (1, 2, 3):
            assert graphs.run("double", double, there(*range(size))).tolist() == [2.0 * one for one in range(size)]
    assert graphs._recorder.recorded == 3


class Slow(Replay):
    """Whose results stand for a while before anybody copies them."""

    def record(self, function, device):
        replay, results = super().record(function, device)
        return lambda: (replay(), time.sleep(0.002)), results


def test_threads_get_their_own_results():
    graphs, wrong = Graphs(Slow()), []
    for _ in range(4):
        graphs.run("double", double, there(0.0))

    def ask(number):
        with Accelerator(), torch.no_grad():
            for step in range(20):
                value = 100.0 * number + step
                if graphs.run("double", double, there(value)).tolist() != [2 * value]:
                    wrong.append(value)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_every_tensor_of_a_nest_is_seen_and_geometry_is_none():
    token_map = TokenMap.from_grid(2, 2)
    nest = (Cues(relevance=there(1.0), saliency_at={0.5: there(2.0)}), [there(3.0), None], {"map": token_map, "k": 4})
    assert [each.tolist() for each in tensors_of(nest)] == [[1.0], [2.0], [3.0]]
    cues, (three, nothing), rest = each_tensor(nest, lambda tensor: tensor + 1)
    assert (cues.relevance.tolist(), cues.saliency_at[0.5].tolist(), three.tolist()) == ([2.0], [3.0], [4.0])
    assert (nothing, rest["k"], rest["map"]) == (None, 4, token_map)


def test_a_fingerprint_tells_memory_and_not_values():
    net = nn.Sequential(nn.Linear(2, 2, device="cpu"), nn.Linear(2, 2, device="cpu")).eval()
    before = fingerprint(net)
    net[0].weight.mul_(2)
    assert fingerprint(net) == before
    net[0].weight = nn.Parameter(net[0].weight.clone())
    replaced = fingerprint(net)
    assert replaced not in (before, None)
    net[1] = nn.Linear(2, 2, device="cpu").eval()
    assert fingerprint(net) not in (replaced, None)
    net.double()
    assert fingerprint(net) not in (replaced, None)


def test_what_no_recording_repeats_has_no_fingerprint():
    net = nn.Sequential(nn.Linear(2, 2, device="cpu"), nn.Dropout()).eval()
    handle = net[0].register_forward_hook(lambda *call: None)
    assert fingerprint(net) is None
    handle.remove()
    assert fingerprint(net) is not None
    net.train()
    assert fingerprint(net) is None


def test_nothing_is_told_where_nothing_fails():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphs = make_believe()
        for _ in range(4):
            graphs.run("double", double, there(1.0))
