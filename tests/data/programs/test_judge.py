"""Statements that judge a program, and programs that would like to judge themselves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raylm.data.programs.sandbox import Limits, run

LIMITS = Limits(10.0, 512 << 20, 1 << 16)


def judged(source: str, *checks: str) -> list[str] | None:
    return run(source, LIMITS, checks=list(checks)).failed


PROGRAM = """
import math
import collections
from collections import deque, namedtuple
from enum import Enum

Pair = namedtuple("Pair", "a b")
SIZE = 3

class Color(Enum):
    RED = 1

class Stack:
    def __init__(self, *items): self.items = list(items)
    def __eq__(self, other): return self.items == other.items
    def __len__(self): return len(self.items)
    def __getitem__(self, at): return self.items[at]
    def __add__(self, other): return Stack(*self.items, *other.items)
    def push(self, item): self.items.append(item); return self

class Empty(ValueError):
    code = 7

def pop(): raise Empty("nothing there")
def count(): yield from range(3)
def sort(items): items.sort()
def same(items): return items
def apply(function, *args, **named): return function(*args, **named)
def show(): print("shown")
def value(node): return node.value
def great(n): return math.factorial(n)
def sum(items): return 42
def array():
    import numpy as np
    return np.array([[1.5, 2.0]])
def all_sorts(): return [(1, 2), {"a": {3}}, b"x", 1 + 2j, range(3), deque([1]), collections.Counter([9]), float("inf")]
"""


def test_statements_see_what_a_program_gives():
    checks = [
        "assert all_sorts() == [(1, 2), {'a': {3}}, b'x', 1 + 2j, range(3), deque([1]), collections.Counter([9]), math.inf]",
        "assert type(all_sorts()[0]) is tuple and isinstance(all_sorts()[1], dict) and SIZE == 3",
        "assert great(2500) == math.factorial(2500) and Pair(1, 2) == (1, 2) and Pair(1, b=2).b == 2",
        "assert Stack(1) == Stack(1) != Stack(2) and len(Stack(1, 2)) == 2 and list(Stack(3, 4)) == [3, 4] and Stack(5)[0] == 5",
        "assert Stack(1, 2, 3)[1:] == [2, 3] and Stack(1, 2, 3)[::-1] == [3, 2, 1]",
        "stack = Stack(1)\nassert stack.push(2) == Stack(1, 2) and isinstance(stack, Stack) and not isinstance(3, Stack)",
        "stack.items = [9]\nassert (stack + Stack(8)).items == [9, 8] and Color.RED == Color.RED and Color.RED.value == 1",
        "try:\n    pop()\nexcept Empty as cause:\n    assert str(cause) == 'nothing there' and cause.code == 7",
        "try:\n    pop()\n    assert False\nexcept ValueError:\n    pass",
        "assert list(count()) == [0, 1, 2] and next(count()) == 0",
        "items = [3, 1]\nsort(items)\nassert items == [1, 3] and same(items) is items",
        "assert apply(lambda x, y: x + y, 1, y=2) == 3 and apply(len, [1]) == 1",
        "class Node:\n    value = 4\nassert value(Node()) == 4",
        "import contextlib as c, io\nwith c.redirect_stdout(io.StringIO()) as out:\n    show()\nassert 'shown' in out.getvalue()",
        "import numpy as np\nassert np.allclose(array(), [[1.5, 2.0]]) and array().shape == (1, 2)",
        "assert sum([1, 2]) == 3",
        "assert Stack(1) + 1 == 2",
    ]
    # beside other functions of the program `sum` is Python's
    wrong = {checks[16]: "OwnClass"}
    assert judged(PROGRAM, *checks) == [wrong.get(check, "") for check in checks]
    assert judged(PROGRAM, "assert sum([1, 2]) == 42") == [""]


def test_tests_give_functions_of_python_to_a_program():
    source = "def apply(function, *args): return function(*args)"
    checks = [
        "import operator\nassert apply(operator.add, 1, 2) == 3 and apply(math.sqrt, 4) == 2 and apply(str.upper, 'a') == 'A'",
        "assert apply(len, [1]) == 1 and apply(max, 1, 2) == 2",
        *(f"assert apply({one}, 'a', 'b')" for one in ("getattr", "open", "operator.attrgetter", "operator.call", "eval")),
    ]
    assert judged(f"import math, operator\n{source}", *checks) == ["", "", *["Unsent"] * 5]


NAMES = """
import sys
def apply(call):
    link, number = call.raylm_link, call.raylm_number
    asked = {"do": "call", "on": number, "args": [{"function": ["%s", "%s"]}, "{0.__globals__}", {"yours": number}], "named": {}}
    link.send(asked)
    while "do" in (answer := link.receive()):
        link.serve(answer)
    print(answer.get("said"))
    return 3 if "no function may be named here" in str(answer.get("said")) else 4
"""


@pytest.mark.parametrize("named", [("str", "format"), ("operator", "call"), ("operator", "attrgetter"), ("math", "sqrt")])
def test_a_program_names_no_function_to_its_judge(named):
    """What it can name there it can call there: `operator.attrgetter` led to the judge's own `exec`."""
    assert judged(NAMES % named, "assert apply(lambda f, *args: f(*args)) == 3") == [""]


EQUAL = """
class Equal:
    def yes(self, *others): return True
    __eq__ = __lt__ = __contains__ = __bool__ = yes
    def zero(self, *others): return 0.0
    __abs__ = __sub__ = __rsub__ = __float__ = zero
class Six(int):
    __eq__ = lambda self, other: True
    __hash__ = int.__hash__
class math:
    isclose = lambda *numbers: True
abs = lambda number: 0.0
isinstance = lambda *args: True
f = lambda x: Equal()
g = lambda x: Six(6)
"""
FORGERIES = {
    "an object that equals everything": EQUAL,
    "the frames of what runs it": """
import gc, sys
frame = sys._getframe()
while frame:
    for name in list(frame.f_locals):
        frame.f_locals[name] = [] if "check" in name else frame.f_locals[name]
    frame = frame.f_back
for each in gc.get_objects():
    if type(each) is dict and "checks" in each:
        each["checks"] = []
f = g = lambda x: None
""",
    "a verdict to every descriptor": """
import json, os
def f(x):
    for number in range(3, 64):
        try:
            os.write(number, json.dumps({"word": "x", "failed": [""] * 6}).encode())
        except OSError:
            pass
g = f
""",
    "answers of its own to the judge": """
import json, os, struct
def say(table):
    told = json.dumps(table).encode()
    for number in range(3, 64):
        try:
            os.write(number, struct.pack("<I", len(told)) + told)
        except OSError:
            pass
def f(x):
    say({"do": "get", "on": 0, "args": ["__globals__"], "named": {}})
    say({"value": {"class": ["unittest.mock", "_ANY"]}})
g = f
""",
    "an end behind a bare except": "import os\nf = g = lambda x: os._exit(0)",
    "names of modules": "import unittest.mock as math\nfrom unittest.mock import ANY\nf = g = lambda x: ANY",
}


@pytest.mark.parametrize("source", FORGERIES.values(), ids=FORGERIES.keys())
def test_no_program_says_of_itself_that_it_is_right(source):
    checks = [
        "assert f(1) == 2",
        "assert abs(f(1) - 2.0) < 1e-6",
        "assert math.isclose(f(1), 2.0)",
        "assert g(1) == 2 and f(1) in [2]",
        "assert isinstance(f(1), dict)",
        "try:\n    f(1)\nexcept:\n    pass\nassert f(1) == 2",
    ]
    found = judged(source, *checks)
    assert found is None or all(found), found


def test_a_program_does_not_reach_what_its_tests_hold():
    """It gets a function of theirs, and would like what lies behind it."""
    source = """
def f(function):
    for name in ("__globals__", "gi_frame", "__code__"):
        try:
            return getattr(function, name)
        except (AttributeError, TypeError):
            pass
    return "nothing"
"""
    assert judged(source, "secret = 5\nassert f(lambda: secret) == 'nothing' and f(x for x in 'a') == 'nothing'") == [""]


def test_a_function_of_a_module_makes_no_way_for_a_forged_one_beside_it():
    """What `abs` and `np` are in a test is not for a program to say that takes the function from a module."""
    assert judged("from math import sqrt as f\nabs = lambda n: 0.0", "assert abs(f(1) - 2.0) < 1e-6") == ["AssertionError"]
    forged = "class np:\n    allclose = lambda *numbers: True\nf = lambda x: 1"
    assert judged(forged, "assert np.allclose(f(1), 2.0)", "assert np.allclose(f(1), 1.0)") == ["AssertionError", ""]


def test_a_class_that_is_called_like_its_module_is_the_class():
    program = "from datetime import datetime\ndef f(day): return day.year"
    assert judged(program, "assert f(datetime.strptime('2020-01-02', '%Y-%m-%d')) == 2020") == [""]


def test_variables_of_a_program_are_what_its_functions_made_of_them():
    program = "count, items, other = 0, [], 5\ndef add(item):\n    global count\n    count += 1\n    items.append(item)"
    checks = [
        "seen = items\nadd(7)\nassert count == 1 and items == [7] and seen is items",
        "items = [1]\nother = 6\nadd(8)\nassert count == 2 and items == [1] and other == 6",
    ]
    assert judged(program, *checks) == ["", ""]


def test_one_object_is_one_object():
    program = """
from enum import Enum
class Color(Enum):
    RED = 1
class Node:
    left = None
def red(): return Color.RED
def left(node): return node.left
"""
    tree = "a, b = Node(), Node()\na.left = b\nassert left(a) is b and left(a) is not a and {left(a): 1}[b] == 1"
    assert judged(program, "assert red() is Color.RED and left(Node()) is None", tree) == ["", ""]


def test_exceptions_are_what_the_program_raised():
    program = """
import json
class Own(Exception):
    def __init__(self, one, two): super().__init__(one)
    def __str__(self): return "own"
def decoded(content): return content.decode()
def looked_up(key): return {}[key]
def read(text): return json.loads(text)
def raised(): raise Own(1, 2)
def sort(items): items.sort()
"""
    checks = [
        "try:\n    decoded(b'\\xff')\n    assert False\nexcept UnicodeDecodeError as cause:\n    assert cause.start == 0",
        "try:\n    looked_up('a')\n    assert False\nexcept KeyError as cause:\n    assert f'{cause.args[0]}{cause}' == \"a'a'\"",
        "try:\n    read('{')\n    assert False\nexcept json.JSONDecodeError as cause:\n    assert cause.pos == 1",
        "try:\n    raised()\n    assert False\nexcept Own as cause:\n    assert str(cause) == 'own' and cause.args == (1,)",
        "items = [2, 1]\nsort(items=items)\nassert items == [1, 2]",
    ]
    assert judged(program, *checks) == [""] * 5


@pytest.mark.parametrize("asked", ["", "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)"], ids=["waits", "would like to live on"])
def test_a_program_ends_with_its_judge(asked):
    source = f"""
import ctypes, os, time
{asked}
print(os.getpid())
os._exit = lambda code: time.sleep(600)
f = lambda x: x
"""
    ran = run(source, LIMITS, checks=["assert f(1) == 1"])
    assert ran.failed == [""]
    until = time.monotonic() + 60
    while alive(int(ran.output)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(int(ran.output))


def alive(process: int) -> bool:
    try:
        told = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return told.rpartition(")")[2].split()[0] not in "ZX"
