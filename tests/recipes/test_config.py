"""Recipe configuration: strict, with helpful errors."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from stepaudio.errors import ConfigError
from stepaudio_recipes.config import load_config


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    kind: Literal["a", "b"] = "a"
    optim: Optim = field(default_factory=Optim)
    speeds: tuple[float, ...] = ()
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    stages: tuple[Stage, ...]
    seed: int = 0
    compile: bool = False


@pytest.fixture
def write(tmp_path):
    def _write(text):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return path

    return _write


def test_nested_values_and_overrides(write):
    path = write("stages:\n- {name: x, speeds: [1, 1.1], optim: {lr: 2}}\n- {name: y, kind: b}\n")
    config = load_config(Recipe, path, ["stages.1.optim.lr=0.5", "seed=7", "stages.0.limit=3"])
    assert config == Recipe(
        stages=(
            Stage(name="x", speeds=(1.0, 1.1), optim=Optim(lr=2.0), limit=3),
            Stage(name="y", kind="b", optim=Optim(lr=0.5)),
        ),
        seed=7,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [{name: x, optim: {lrr: 1}}]", "stages.0.optim.lrr: unknown; did you mean"),
        ("stages: [{kind: a}]", "stages.0.name: missing"),
        ("stages: [{name: x, kind: c}]", "stages.0.kind: must be one of"),
        ("stages: [{name: 3}]", "stages.0.name: must be str, got 3"),
        ("stages: [{name: x, optim: {betas: [1.0]}}]", "betas: must have 2 entries, got 1"),
        ("{stages: [], seed: true}", "seed: must be int"),
        ("{stages: [], seed: '1'}", "seed: must be int"),
        ("stages: 3", "stages: must be a list"),
        ("stages: [3]", "stages.0: must be a mapping"),
        ("- 1", "must hold a mapping"),
        ("stages: [", "not valid YAML"),
        ("stages: !!python/object/apply:os.system [true]", "not valid YAML"),
    ],
)
def test_mistakes_are_named(write, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(Recipe, write(text))


@pytest.mark.parametrize("override", ["seed", "stages.5.name=x", "stages.x.name=y", "seed.a=1"])
def test_bad_overrides_are_named(write, override):
    with pytest.raises(ConfigError, match=override.split("=")[0].split(".")[0]):
        load_config(Recipe, write("stages: [{name: x}]"), [override])


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(Recipe, tmp_path / "none.yaml")
