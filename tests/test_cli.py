"""The doors' common part: recipes, overrides, and one line for every mistake."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_config import FULL, Job, Small

import mtlora_jax
from mtlora_jax.cli import fail_cleanly, keys, load_config, override, parse_door, show, split_flags
from mtlora_jax.config import Config
from mtlora_jax.errors import Interrupted, UserError


@pytest.mark.parametrize(
    ("arguments", "path", "expected"),
    [
        (["--optim.lr=1e-4"], "optim.lr", 1e-4),
        (["--optim.lr", "1e-4"], "optim.lr", 1e-4),
        (["--optim.lr=1", "--optim.lr=2"], "optim.lr", 2.0),
        (["--one.scales=-1,2"], "one.scales", (-1.0, 2.0)),
        (["--one.scales", "-1", "2"], "one.scales", (-1.0, 2.0)),
        (["--one.scales", "3"], "one.scales", (3.0,)),
        (["--one.extra=a, b=c"], "one.extra", "a, b=c"),
        (["--one.extra="], "one.extra", ""),
        (["--tasks.b.weight=0"], "tasks.b.weight", 0.0),
        (["--tasks.b.classes=None"], "tasks.b.classes", None),
        (["--ranks.x=4"], "ranks.x", (4,)),
        (["--ranks.new=4,8"], "ranks.new", (4, 8)),
        (["--widths=4,8"], "widths", (4, 8)),
        (["--flag=false"], "flag", False),
        (["--flag", "True"], "flag", True),
        (["--dtype=bfloat16"], "dtype", "bfloat16"),
        (["--pair=3,y"], "pair", (3, "y")),
        (["--adapter=None"], "adapter", None),
        (["--adapter.rank=7"], "adapter.rank", 7),
        (["--seed", "5", "--name", "other"], "name", "other"),
    ],
)
def test_override(arguments, path, expected):
    changed = override(FULL, arguments)
    assert keys(changed)[path] == expected
    assert type(keys(changed)[path]) is type(expected)
    before = {k: v for k, v in keys(FULL).items() if not k.startswith(path)}
    after = keys(changed)
    if arguments[0] != "--seed":
        assert {k: after[k] for k in before} == before


def test_override_keeps_types_and_the_original():
    changed = override(FULL, ["--one.rank=2", "--tasks.a.head=b"])
    assert type(changed) is type(FULL)
    assert type(changed.one) is type(FULL.one)
    assert changed.tasks["a"] == Job(head="b")
    assert FULL.tasks["a"] == Job()
    assert override(FULL, []) is FULL


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--optim.weigth_decay=1", "unknown config key optim.weigth_decay: did you mean optim.weight_decay?"),
        ("--lr=1", "unknown config key lr: did you mean optim.lr?"),
        ("--tasks.bb.weight=1", "unknown config key tasks.bb.weight: did you mean tasks.b.weight?"),
        ("--nothing.alike=1", "unknown config key nothing.alike; --help lists all keys"),
        ("--optim.lr.x=1", "unknown config key optim.lr.x"),
        ("--optim.lr=fast", "optim.lr must be a number, not 'fast'"),
        ("--optim.lr=", "optim.lr must be a number, not ''"),
        ("--optim.lr", "--optim.lr needs a value: a number"),
        ("--train.steps=1e3", "train.steps must be a whole number, not '1e3'"),
        ("--train.steps=None", "train.steps must be a whole number, not 'None'"),
        ("--flag=maybe", "flag must be True or False, not 'maybe'"),
        ("--dtype=int4", "dtype must be one of float32, bfloat16, not 'int4'"),
        ("--widths=1,x", "widths must be a tuple, each entry a whole number or None, not '1,x'"),
        ("--pair=1", "pair must be a tuple, a whole number, text, not '1'"),
        ("--optim=3", "optim is a group: set one of optim.lr, "),
        ("--tasks.a=None", "tasks.a is a group: set one of tasks.a.weight"),
        ("--tasks.c=1", "unknown config key tasks.c"),
        ("--one.rank=0", "--one.rank: rank must be at least 1, not 0"),
        ("stray", "does not understand the argument 'stray'"),
        ("--", "does not understand the argument '--'"),
    ],
)
def test_override_refuses_in_one_line(argument, message, capfd):
    with pytest.raises(UserError) as error:
        override(FULL, [argument])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    # tyro's boxes stay inside.
    assert capfd.readouterr() == ("", "")


def test_a_group_that_is_none_is_set_in_the_recipe():
    dropped = override(FULL, ["--adapter=None"])
    assert override(dropped, ["--adapter=None"]) == dropped
    with pytest.raises(UserError, match=r"adapter\.rank: adapter is None in this config"):
        override(dropped, ["--adapter.rank=3"])
    with pytest.raises(UserError, match="adapter is None in this config and can only be set in the recipe"):
        override(dropped, ["--adapter=3"])


RECIPE = """
from mtlora_jax.config import Config
def get_config():
    return Config(name="recipe", seed=3)
"""


@pytest.fixture
def recipe(tmp_path):
    def write(text=RECIPE, name="recipe.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_load_config_from_anywhere_with_parents(recipe):
    assert load_config(recipe()) == Config(name="recipe", seed=3)
    recipe(name="mine_x/parent_x.py")
    child = "from {} import get_config as parent\nimport dataclasses\n"
    child += "def get_config():\n    return dataclasses.replace(parent(), seed=4)\n"
    before = list(sys.path)
    assert load_config(recipe(child.format("mine_x.parent_x"), "mine_x/child.py")).seed == 4
    assert load_config(recipe(child.format("parent_x"), "mine_x/child2.py")).seed == 4
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bad.py defines no get_config()"),
        ("get_config = 3", "bad.py defines no get_config()"),
        ("def get_config(:", "bad.py is not valid Python: line 1: "),
        ("\ndef get_config():\n    return 1 / 0", "bad.py, line 3: ZeroDivisionError: division by zero"),
        ("def get_config():\n    return {}", "bad.py: get_config() returned dict, not a mtlora_jax.config.Config"),
        ("import no_such_module", "bad.py, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("from mtlora_jax.config import Config\nget_config = lambda: Config(lr=1)", "unexpected keyword argument 'lr'"),
        (
            "from mtlora_jax.errors import Interrupted, UserError\nraise UserError('no such data')",
            "bad.py: no such data",
        ),
    ],
)
def test_bad_recipes_are_one_line(recipe, text, message):
    path = recipe(text, "bad.py")
    with pytest.raises(UserError) as error:
        load_config(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match=r"there is no config file .*nowhere\.py"):
        load_config(tmp_path / "nowhere.py")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json is not a recipe"):
        load_config(tmp_path / "config.json")
    with pytest.raises(UserError, match="there is no config file"):
        load_config(tmp_path)


def test_parse_door(recipe):
    path = str(recipe())
    door = parse_door(["--config", path, "--optim.lr=1e-4"])
    assert (door.config.optim.lr, door.workdir, door.dry_run) == (1e-4, Path("runs/recipe"), False)
    door = parse_door(["--dry_run", "--train.steps", "3", f"--config={path}", "--workdir", "there"])
    assert (door.config.train.steps, door.workdir, door.dry_run) == (3, Path("there"), True)
    for arguments, message in [
        ([], "no recipe: give one with --config FILE"),
        (["--config"], "--config needs a value"),
        (["--config", "--dry_run"], "--config needs a value"),
        (["--config", path, "--dry_run=1"], "--dry_run takes no value"),
        (["--config", path, "--dryrun"], "unknown config key dryrun"),
        # Values are validated after they were overridden.
        (["--config", path, "--train.steps=0"], "train.steps must be at least 1"),
    ]:
        with pytest.raises(UserError, match=message):
            parse_door(arguments)


def test_help_lists_keys_as_one_would_type_them(recipe, capsys):
    for arguments in (["--help"], ["--help", "--config", str(recipe())], ["-h"]):
        with pytest.raises(SystemExit) as stop:
            parse_door(arguments)
        assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "usage: train.py --config FILE" in out
    assert "\n  --optim.schedule=cosine\n" in out
    for key, value in keys(FULL).items():
        if value not in ((), {}):
            assert keys(override(FULL, [f"--{key}={show(value)}"]))[key] == value


def test_split_flags():
    argv = ["--workdir", "w", "--x=1", "pos", "--go", "--out=a=b"]
    assert split_flags(argv, ("workdir", "out", "other"), ("go", "stay")) == (
        {"workdir": "w", "out": "a=b", "other": None, "go": True, "stay": False},
        ["--x=1", "pos"],
    )


def test_fail_cleanly(capfd):
    @fail_cleanly()
    def door(error=None):
        if error:
            raise error
        return 7

    assert door() == 7
    with pytest.raises(SystemExit) as stop:
        door(UserError("two\n  lines"))
    assert stop.value.code == 2
    assert capfd.readouterr().err == "error: two lines\n"
    with pytest.raises(SystemExit) as stop:
        door(Interrupted("stopped and saved at step 3", 143))
    assert stop.value.code == 143
    assert capfd.readouterr().err == "stopped and saved at step 3\n"
    with pytest.raises(SystemExit) as stop:
        door(KeyboardInterrupt())
    assert stop.value.code == 130
    assert capfd.readouterr().err == ""
    # A mistake of ours keeps its traceback.
    with pytest.raises(ZeroDivisionError):
        door(ZeroDivisionError())


def test_a_door_prints_one_line_and_exits_with_2():
    door = "import sys; from mtlora_jax.cli import *; fail_cleanly()(parse_door)(sys.argv[1:])"
    root = Path(mtlora_jax.__file__).parents[1]
    command = [sys.executable, "-c", door, "--config", "no.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no config file no.py\n"


def test_adapter_group_of_another_class_keeps_its_class():
    assert override(FULL, ["--adapter.rank=9"]).adapter == Small(9)
