"""Pickles as data: the stack machine with nothing in it that could be called.

A pickle is a program for a small stack machine. Python's own machine looks up whatever the program
names and calls it; torch's ``weights_only`` machine calls from a list, on which ``bytearray(n)`` and
``torch.Tensor(n)`` let thirty bytes allocate gigabytes. This one looks nothing up: names, calls and
states are handed to a :class:`Meaning` that knows a few of them and refuses all others by name.
The opcodes are those of the standard library's ``pickletools``.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol, cast

MAX_OPCODES = 2_000_000  # a state dict of a thousand tensors has some 30,000
MAX_COPIES = 5_000_000  # entries copied by calls, of which a shared value may have any number
MAX_LINE = 4096  # bytes of a name or number written as text
MAX_KEY = 1000  # characters of a name, a dict's key or a set's element
PROBES = 512  # crafted numbers may all collide: looking one up costs this part of a dict's size
FREE_TEXT = 4 * 2**20


class Damaged(ValueError):
    """The bytes are no pickle, or one that contradicts itself."""


class Budget:
    """What one file may cost, nested pickles too; values met often through the memo count each time.

    Texts and bytes of a file of ``size`` bytes are copied twice at most: decoded, and unpacked.
    """

    def __init__(self, size: int) -> None:
        self._left = {
            "instructions": MAX_OPCODES,
            "copied entries": MAX_COPIES,
            "copied characters": 2 * size + FREE_TEXT,
        }
        self._limits = dict(self._left)

    def spend(self, kind: str, count: int) -> None:
        """Raises :class:`Damaged` when there is not so much left."""
        self._left[kind] -= count
        if self._left[kind] < 0:
            raise Damaged(f"more than {self._limits[kind]:,} {kind}")

    def copy(self, value: Any) -> None:
        """Spend what a copy of the value costs, without its parts."""
        if isinstance(value, str | bytes):
            self.spend("copied characters", len(value))
        elif isinstance(value, list | tuple | dict | set | frozenset):
            self.spend("copied entries", len(value))

    def key(self, value: Any, held: int) -> Any:
        """The value as a key among ``held`` others, if of a kind whose hash and equality are cheap."""
        if value is None or (isinstance(value, str) and len(value) <= MAX_KEY):
            return value
        if isinstance(value, float) or (isinstance(value, int) and -(2**63) < value < 2**63):
            self.spend("copied entries", held // PROBES)
            return value
        raise Damaged(f"a key that is a {type(value).__name__}, too long or of another kind")


class Meaning(Protocol):
    """What the parts of a pickle that are no plain values mean."""

    def named(self, module: str, name: str) -> Any:
        """What a global stands for."""

    def called(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """What a call stands for; ``function`` is what :meth:`named` returned."""

    def built(self, value: Any, state: Any) -> Any:
        """The value with its state set."""

    def persistent(self, key: Any) -> Any:
        """What is kept outside of the pickle."""


class _Reader:
    """The file with reads no longer than what is left of it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._size - self._file.tell()))

    def readline(self) -> bytes:
        return self._file.readline(MAX_LINE)


def read_program(file: BinaryIO, size: int, meaning: Meaning, budget: Budget) -> Any:
    """What the pickle at the position of a file of ``size`` bytes says; the position moves behind it.

    Raises :class:`Damaged`, and what the meaning raises.
    """
    machine = _Machine(meaning, budget)
    instructions = pickletools.genops(cast(BinaryIO, _Reader(file, size)))
    try:
        for opcode, argument, _ in instructions:
            budget.spend("instructions", 1)
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except (IndexError, KeyError, TypeError, OverflowError, RecursionError, ValueError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged(f"{type(error).__name__} {error!s:.100}") from error
    raise Damaged("no end")


class _Machine:
    """Stack, marks and memo."""

    def __init__(self, meaning: Meaning, budget: Budget) -> None:
        self.meaning = meaning
        self.budget = budget
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Carry out one instruction."""
        if opcode in _IGNORED:
            return
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self, argument)
        else:  # extension codes, out-of-band buffers
            raise Damaged(f"the instruction {opcode}, which no checkpoint has")

    def pop(self) -> Any:
        """The top of the stack, taken off."""
        return self.stack.pop()

    def to_mark(self) -> list[Any]:
        """What was put on the stack since the last mark, taken off."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop_any(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def pop_to_mark(self, _: Any) -> None:
        self.to_mark()

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def remember(self, index: Any) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index: Any) -> None:
        self.stack.append(self.memo[index])

    def tuple_of(self, count: int | None) -> None:
        items = self.to_mark() if count is None else [self.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(items))

    def list_of(self, _: Any) -> None:
        items = self.to_mark()
        self.stack.append(items)

    def dict_of(self, _: Any) -> None:
        items = self.to_mark()
        self.stack.append({})
        self.put(items)

    def frozen_set_of(self, _: Any) -> None:
        items = self.to_mark()
        self.stack.append(frozenset(self.budget.key(item, len(items)) for item in items))

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Damaged("an item for what is no list")
        self.stack[-1].extend(items)

    def put(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Damaged("an entry for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.budget.key(key, len(target))] = value

    def add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not set:
            raise Damaged("an element for what is no set")
        for item in items:
            target.add(self.budget.key(item, len(target)))

    def named(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Damaged("a name that is no text")
        if max(len(module), len(name)) > MAX_KEY:
            raise Damaged(f"a name of more than {MAX_KEY:,} characters")
        self.stack.append(self.meaning.named(module, name))

    def named_on_stack(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        self.named(module, name)

    def call(self, function: Any, arguments: Any) -> None:
        if not isinstance(arguments, tuple | list):
            raise Damaged("a call without arguments")
        self.budget.copy(arguments)
        self.stack.append(self.meaning.called(function, tuple(arguments)))

    def reduce(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        self.call(function, arguments)

    def make_with_names(self, _: Any) -> None:
        names, arguments, function = self.pop(), self.pop(), self.pop()
        if names:
            raise Damaged("an object made with named arguments")
        self.call(function, arguments)

    def make_named(self, argument: str) -> None:
        items = self.to_mark()
        module, _, name = argument.partition(" ")
        self.named(module, name)
        self.call(self.pop(), items)

    def make_marked(self, _: Any) -> None:
        function, *items = self.to_mark()
        self.call(function, items)

    def build(self, _: Any) -> None:
        state, value = self.pop(), self.pop()
        self.stack.append(self.meaning.built(value, state))

    def persistent(self, key: Any) -> None:
        self.stack.append(self.meaning.persistent(key))


_IGNORED = {"PROTO", "FRAME"}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop_any,
    "POP_MARK": _Machine.pop_to_mark,
    "DUP": _Machine.duplicate,
    "PUT": _Machine.remember,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "GET": _Machine.recall,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "TUPLE": _Machine.tuple_of,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_of,
    "DICT": _Machine.dict_of,
    "FROZENSET": _Machine.frozen_set_of,
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.to_mark()),
    "SETITEM": lambda machine, _: machine.put([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.put(machine.to_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine.to_mark()),
    "GLOBAL": lambda machine, names: machine.named(*names.split(" ", 1)),
    "STACK_GLOBAL": _Machine.named_on_stack,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.make_with_names,
    "INST": _Machine.make_named,
    "OBJ": _Machine.make_marked,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent,
    "BINPERSID": lambda machine, _: machine.persistent(machine.pop()),
}
