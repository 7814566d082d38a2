"""Names of methods: lookup, hints, settings, methods of other packages."""

from importlib.metadata import EntryPoint

import pytest

from gridprune.errors import BudgetError, SettingError, UnknownNameError
from gridprune.methods import Method, available, create, get, registry
from gridprune.methods.gridprune import GridPrune


@pytest.fixture
def plugins(monkeypatch):
    """Pretend that other packages registered methods."""

    def install(**targets):
        entries = [EntryPoint(name, value, registry.ENTRY_POINT_GROUP) for name, value in targets.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: entries)
        registry._targets.cache_clear()

    yield install
    monkeypatch.undo()
    registry._targets.cache_clear()


def test_every_name_gives_its_method():
    assert available() == sorted(available())
    for name in available():
        method = get(name)
        assert issubclass(method, Method)
        assert method.name == name


@pytest.mark.parametrize("name", ["gridprune", "GridPrune", " gridprune ", "GRIDPRUNE"])
def test_names_are_forgiving(name):
    assert get(name) is GridPrune
    assert get("keep_all") is get("keep-all")


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(
        UnknownNameError, match=r"no method called 'gridprun'. Did you mean 'gridprune'\? Known methods: "
    ) as caught:
        get("gridprun")
    assert not str(caught.value).startswith('"')  # a KeyError would quote itself
    assert all(name in str(caught.value) for name in available())
    with pytest.raises(UnknownNameError) as caught:
        create("zzzz")
    assert "Did you mean" not in str(caught.value)


def test_settings():
    assert create("gridprune", keep=64, zone=3) == GridPrune(keep=64, zone=3)
    with pytest.raises(SettingError, match=r"zones.*It has: keep, reading, zone, temperature, alpha"):
        create("gridprune", zones=3)
    with pytest.raises(SettingError, match="zone"):
        create("gridprune", zone="two")
    with pytest.raises(BudgetError):
        create("gridprune", keep=0)


def test_methods_of_other_packages(plugins):
    plugins(Their_Method="gridprune.methods.uniform:Uniform")
    assert "their-method" in available()
    assert get("Their_Method") is get("their-method") is get("uniform")


def test_two_methods_of_one_name(plugins):
    plugins(gridprune="theirs.methods:GridPrune")
    with pytest.raises(SettingError, match=r"'gridprune': \.gridprune:GridPrune and theirs\.methods:GridPrune"):
        available()
