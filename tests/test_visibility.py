"""What a worker sees of the caller: the table of schwimmbad's behaviour, row by row, as real scripts.

One script per way of running (a file, or text on stdin as in a notebook) and per set of installed picklers asks for every
row and prints the answers; each row is then a case of its own. What schwimmbad answers yes to must stay yes. Where its
answer is no, a yes is an improvement; a wrong value never is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import scripts
from pools_under_test import FORK, SERIAL, PoolKind

SCRIPT = r"""
import importlib.abc, json, os, sys

class Hidden(importlib.abc.MetaPathFinder):
    "Makes packages look as if they were not installed."
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDE:
            raise ModuleNotFoundError(f"No module named {name!r} (hidden by the test)", name=name)

HIDE = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Hidden())

import schwimmbad_go
from helpers import outside

module_level = "module level"
changed_later = "old"
answers = {}

def ask(row, question):
    "The answer, or the name of the error; every row is asked even if another fails."
    try:
        answers[row] = question()
    except Exception as error:
        answers[row] = f"{type(error).__name__}: {error}"

class Sample:
    def __init__(self, value):
        self.value = value

def get_module_level(_): return module_level
def get_under_guard(_): return under_guard
def get_changed_later(_): return changed_later
def get_set_after(_): return set_after
def get_outside(_): return outside.BEFORE, outside.AFTER
def surroundings(_): return [os.environ.get("FROM_PARENT"), os.getcwd(), "/nowhere/at/all" in sys.path, sys.argv[1:]]
def redefined(x): return "old"
def is_sample(x): return isinstance(x, Sample)
def make_sample(x): return Sample(x)
def helper(x): return "old helper"
def calls_helper(x): return helper(x)

def late_import(_):
    import made_late
    return made_late.VALUE

class Redefined:
    def answer(self): return "old"

class Model:
    def __init__(self, data): self.data = data
    def __call__(self, x): return self.data + x
    def method(self, x): return self.data * x

if __name__ == "__main__":
    under_guard = "under guard"
    outside.BEFORE = "mutated before"
    os.environ["FROM_PARENT"] = "yes"
    os.mkdir("elsewhere")
    os.chdir("elsewhere")
    sys.path.append("/nowhere/at/all")
    sys.argv[1:] = ["changed", "arguments"]

    pool = POOL
    def one(func, task=0):
        first, second = list(pool.map(func, [task, task]))
        assert repr(first) == repr(second) or "object at" in repr(first), (first, second)
        return first

    ask("module level global", lambda: one(get_module_level))
    ask("global set under the guard", lambda: one(get_under_guard))
    ask("imported module mutated before", lambda: one(get_outside)[0])
    ask("imported module, function of its own", lambda: one(outside.get_before))
    ask("env cwd path argv", lambda: one(surroundings) == ["yes", os.getcwd(), True, ["changed", "arguments"]])

    set_after = "set after"
    ask("main global set after", lambda: one(get_set_after))
    set_after = "changed again"
    ask("main global set after, then changed", lambda: one(get_set_after))
    asked_again = "first"
    one_more = lambda _: asked_again
    try:
        one(one_more)
    except Exception:
        pass
    asked_again = "second"
    ask("main global set after, function by value, then changed", lambda: one(lambda _: asked_again))
    outside.AFTER = "new"
    ask("imported global changed after", lambda: one(outside.get_after))
    changed_later = "new"
    ask("main global changed after", lambda: one(get_changed_later))

    def defined_after(x): return ("defined after", x, module_level)
    ask("function defined after", lambda: one(defined_after))
    ask("function defined after calls earlier one", lambda: one(lambda x: is_sample(x)))

    def redefined(x): return "new"
    ask("function redefined", lambda: one(redefined))
    def helper(x): return "new helper"
    ask("helper of a function redefined", lambda: one(calls_helper))

    class Redefined:
        def answer(self): return "new"
    ask("class redefined", lambda: one(Redefined.answer, Redefined()))
    ask("class redefined, instance made by the worker", lambda: one(lambda _: Redefined().answer()))

    class DefinedAfter:
        def __init__(self): self.x = 5
        def get(self, y): return self.x + y
    ask("bound method of a class defined after", lambda: one(DefinedAfter().get, 1))
    ask("class defined after comes back as itself", lambda: type(one(lambda _: DefinedAfter())) is DefinedAfter)

    ask("lambda", lambda: one(lambda x: ("lambda", x, module_level)))
    def closure(k):
        return lambda x: ("closure", k + x)
    ask("closure", lambda: one(closure(5), 1))
    def local(x): return ("local", x)
    ask("local function", lambda: one(local))
    def fact(n): return 1 if n < 2 else n * fact(n - 1)
    ask("recursive function defined after", lambda: one(fact, 5))
    ask("callable instance", lambda: one(Model(5), 1))
    ask("bound method", lambda: one(Model(5).method, 2))

    ask("isinstance of a main class in the worker", lambda: one(is_sample, Sample(1)))
    ask("isinstance of a main class in another module", lambda: one(outside.is_from_main, Sample(1)))
    back = []
    ask("class of a result", lambda: [back.append(one(make_sample, 3)), isinstance(back[0], Sample), back[0].value][1:])

    os.makedirs("late"); sys.path.append(os.path.abspath("late"))
    open("late/made_late.py", "w").write("VALUE = 'imported late'\ndef get(_): return VALUE\n")
    ask("import in a task by a later sys.path entry", lambda: one(late_import))
    import made_late
    ask("function of a module found by a later sys.path entry", lambda: one(made_late.get))

    try:
        import numpy
    except ImportError:
        answers["random state"] = None
    else:
        from helpers import arrays
        numpy.random.seed(7)
        with FRESH as second:
            states = second.broadcast(arrays.state_of_random)
            answers["random state"] = len(set(states)) == 1 and states[0] == arrays.state_of_random()

    ask("pool still right", lambda: list(pool.map(abs, [-1, -2])))
    pool.close()
    if hasattr(pool, "_pool"):
        pool.join()
    print(json.dumps(answers))
"""

BY_VALUE = "needs cloudpickle or dill"  # without them: the right answer, or an error that says what to install

# row -> (schwimmbad's MultiPool with fork, and ours; alternatives that are improvements)
ROWS: dict[str, tuple[Any, ...]] = {
    "module level global": ("module level",),
    "global set under the guard": ("under guard",),
    "imported module mutated before": ("mutated before",),
    "imported module, function of its own": ("mutated before",),
    "env cwd path argv": (True,),
    "main global set after": ("NameError", "set after"),
    "main global set after, then changed": ("NameError", "changed again"),
    "main global set after, function by value, then changed": ("NameError", "second"),
    "imported global changed after": ("old",),
    "main global changed after": ("old",),
    "function defined after": (["defined after", 0, "module level"],),
    "function defined after calls earlier one": (False,),
    "function redefined": ("new",),
    "helper of a function redefined": ("old helper", "new helper"),
    "class redefined": ("new",),
    "class redefined, instance made by the worker": ("new", "old"),
    "bound method of a class defined after": (6,),
    "class defined after comes back as itself": (True,),
    "lambda": (["lambda", 0, "module level"],),
    "closure": (["closure", 6],),
    "local function": (["local", 0],),
    "recursive function defined after": (120,),
    "callable instance": (6,),
    "bound method": (10,),
    "isinstance of a main class in the worker": (True,),
    "isinstance of a main class in another module": ([True, "__main__"],),
    "class of a result": ([True, 3],),
    "import in a task by a later sys.path entry": ("ModuleNotFoundError", "imported late"),
    "function of a module found by a later sys.path entry": ("imported late",),
    "random state": (True, None),
    "pool still right": ([1, 2],),
}
IN_CALLER = {  # the same rows where a task runs in the caller: always the newest
    **ROWS, "main global set after": ("set after",), "main global set after, then changed": ("changed again",),
    "main global set after, function by value, then changed": ("second",),
    "imported global changed after": ("new",), "main global changed after": ("new",),
    "helper of a function redefined": ("new helper",), "class redefined, instance made by the worker": ("new",),
    "import in a task by a later sys.path entry": ("imported late",),
}
VALUE_ROWS = {
    "main global set after, function by value, then changed",
    "function defined after", "function defined after calls earlier one", "function redefined", "class redefined",
    "class redefined, instance made by the worker", "bound method of a class defined after",
    "class defined after comes back as itself", "lambda", "closure", "local function", "recursive function defined after",
}

PICKLERS = {"both": "none", "cloudpickle": "dill,multiprocess", "dill": "cloudpickle", "neither": "dill,multiprocess,cloudpickle"}
WAYS = [(FORK, picklers, False) for picklers in PICKLERS] + [(FORK, "both", True), (FORK, "neither", True), (SERIAL, "neither", False)]
_answers: dict[tuple[str, str, bool], dict[str, Any]] = {}


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0].name}-{way[1]}-{'stdin' if way[2] else 'file'}")
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PoolKind, str, dict[str, Any]]:
    kind, picklers, stdin = request.param
    if picklers in ("both", "cloudpickle"):
        pytest.importorskip("cloudpickle")
    if picklers in ("both", "dill"):
        pytest.importorskip("dill")
    key = (kind.name, picklers, stdin)
    if key not in _answers:
        source = SCRIPT.replace("POOL", kind.expression()).replace("FRESH", kind.expression())
        directory: Path = tmp_path_factory.mktemp("visibility")
        _answers[key] = json.loads(scripts.succeed(directory, source, PICKLERS[picklers], stdin=stdin).splitlines()[-1])
    return kind, picklers, _answers[key]


@pytest.mark.parametrize("row", ROWS)
def test_row(way: tuple[PoolKind, str, dict[str, Any]], row: str) -> None:
    kind, picklers, answers = way
    answer = answers[row]
    refused = isinstance(answer, str) and "picklingerror" in answer.lower()
    if refused and picklers == "neither" and row in VALUE_ROWS:
        assert "cloudpickle" in answer, f"the error must say what to install: {answer}"
        return
    allowed = ROWS[row] if kind.has("workers") else IN_CALLER[row]
    if picklers == "dill" and row == "class defined after comes back as itself":
        allowed = (True, False)  # dill sends classes by value both ways, in schwimmbad too
    assert answer in allowed or (isinstance(answer, str) and answer.partition(":")[0] in allowed), answer
