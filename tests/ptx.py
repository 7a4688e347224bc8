"""PTX without a GPU: an interpreter that notes what compute-sanitizer would.

What numba-cuda has compiled is run instruction by instruction, all threads of a launch at a time: a register
is an array with an element for each thread. Threads that part at a branch go on by themselves, those that are
furthest behind first, and meet again. Every access is checked: that it is inside an array, aligned, does not
read what nobody has written, and that no two threads touch one element, one of them writing, with no barrier
between. So is every barrier: that all threads of a block come to the same one.

Only instructions that Numba's compiler writes for this project are known; another is a `NotImplementedError`.
Approximate ones are computed exactly. The terms are those of NVIDIA's "PTX ISA".
"""

from __future__ import annotations

import ctypes
import re
import struct
import weakref
from collections import Counter, defaultdict
from functools import cache

import numpy as np
from numba import types, vectorize
from numba.extending import intrinsic

__all__ = ["Launch", "Memory", "Module", "UNWRITTEN"]

UNWRITTEN = {4: np.uint32(0x7FBAD0BA), 8: np.uint64(0x7FF7BAD0BAD0BAD0)}  # a NaN that no computation gives
_WIDTHS = {"pred": "?", "b8": "u1", "b16": "u2", "b32": "u4", "b64": "u8"}
_NAMES = re.compile(r"[%$\w.]+")


# ---- arithmetic that NumPy has not --------------------------------------------------------------------------


@intrinsic
def _llvm_fma(typing, a, b, c):
    return a(a, a, a), lambda context, builder, signature, arguments: builder.fma(*arguments)


@cache
def _rounded_once():
    return vectorize([types.float64(*[types.float64] * 3)], nopython=True)(lambda a, b, c: _llvm_fma(a, b, c))


def fma(a, b, c):
    """Return a b + c, rounded once."""
    if a.dtype == np.float64:
        return _rounded_once()(a, b, c)
    return (a.astype("f8") * b.astype("f8") + c).astype("f4")  # the product is exact


def _towards(exact, limit):
    """Return the float32 beside a float64 on the side of `limit`, which may be another for each element."""
    near = exact.astype("f4")
    passed = np.where(limit < exact, near > exact, near < exact)
    return np.where(passed, np.nextafter(near, np.float32(limit)), near)


def fma_down(a, b, c):
    """Return a b + c rounded towards minus infinity."""
    return _towards(fma(a.astype("f8"), b.astype("f8"), np.asarray(c, "f8")), -np.inf)


def add_to_zero(a, b):
    """Return a + b rounded towards zero."""
    return _towards(np.asarray(a, "f8") + np.asarray(b, "f8"), 0.0)


def divide(a, b):
    """Return the quotient of integers, cut off as in C; that by 0 is any number."""
    b = np.where(b == 0, 1, b).astype(b.dtype)
    quotient = a // b
    return quotient + ((a - quotient * b != 0) & ((a < 0) != (b < 0))).astype(a.dtype)


def high(a, b):
    """Return the upper half of the product of two int64."""
    low, half = np.int64(0xFFFFFFFF), np.int64(32)
    a1, a0, b1, b0 = a >> half, a & low, b >> half, b & low
    middle = a1 * b0 + (a0.astype("u8") * b0.astype("u8") >> np.uint64(32)).astype("i8")
    return a1 * b1 + (middle >> half) + (a0 * b1 + (middle & low) >> half)


def shift(a, count, left):
    """Return a shifted, by its width or more too."""
    width = 8 * a.dtype.itemsize
    beyond, count = count >= width, np.minimum(count, width - 1).astype(a.dtype)
    if left:
        return np.where(beyond, 0, a << count).astype(a.dtype)
    return np.where(beyond & (a >= 0), 0, a >> count).astype(a.dtype)


def to_integer(value, kind):
    """Return a float as an integer: cut off, at the ends of what there is, 0 for NaN."""
    limits = np.iinfo(kind)
    inside = np.clip(np.nan_to_num(np.trunc(value)).astype("f8"), limits.min, limits.max)
    return np.where(inside >= limits.max, limits.max, inside.astype(kind)).astype(kind)


def flushed(value):
    """Return zero for what is not normal."""
    return np.where(np.abs(value) < np.finfo(value.dtype).tiny, np.copysign(0, value), value).astype(value.dtype)


def upper(value):
    """Return float64 without the lower half."""
    return (value.view("u8") & np.uint64(0xFFFFFFFF00000000)).view("f8")


# operation: expression of its operands, whose type is in T; the longest name that fits is taken
_EXPRESSIONS = {
    "add": "a + b", "sub": "a - b", "mul": "a * b", "mul.lo": "a * b", "mul.rn": "a * b", "add.rn": "a + b",
    "add.rz": "add_to_zero(a, b)", "mul.hi.s64": "high(a, b)", "mad.lo": "a * b + c",
    "div.s": "divide(a, b)", "div.u": "a // np.maximum(b, 1).astype(b.dtype)", "div.rn": "a / b",
    "rem.s": "a - divide(a, b) * b", "rem.u": "a % np.maximum(b, 1).astype(b.dtype)",
    "fma.rn": "fma(a, b, c)", "fma.rm.f32": "fma_down(a, b, c)",
    "and": "a & b", "or": "a | b", "xor": "a ^ b", "not": "~a", "neg": "-a", "abs": "np.abs(a)",
    "copysign": "np.copysign(b, a)", "mov": "a",
    "min.f": "np.fmin(a, b)", "max.f": "np.fmax(a, b)", "min": "np.minimum(a, b)", "max": "np.maximum(a, b)",
    "sqrt.rn": "np.sqrt(a)", "rcp.rn": "1 / a", "rcp.approx.ftz.f32": "flushed(1 / flushed(a))",
    "rcp.approx.ftz.f64": "upper(1 / a)", "ex2.approx.ftz.f32": "flushed(np.exp2(flushed(a)))",
    "ex2.approx.f32": "np.exp2(a)",
}  # fmt: skip
_COMPARISONS = {
    "eq": "a == b", "ne": "(a < b) | (a > b)", "lt": "a < b", "le": "a <= b", "gt": "a > b", "ge": "a >= b",
    "equ": "~((a < b) | (a > b))", "neu": "a != b", "ltu": "~(a >= b)", "leu": "~(a > b)",
    "gtu": "~(a <= b)", "geu": "~(a < b)", "num": "(a == a) & (b == b)", "nan": "(a != a) | (b != b)",
}  # fmt: skip


# ---- text to Python -----------------------------------------------------------------------------------------


class Module:
    """A compiled file: one kernel and the functions that it calls.

    Attributes
    ----------
    functions : dict of str to Function
    kernel : Function
    shared : int
        Bytes of shared memory of a block.
    tables : dict of str to ndarray of uint8
        Constants in global memory.
    """

    def __init__(self, text):
        text = re.sub(r"//[^\n]*", "", text)
        self.symbols, self.tables, self.shared = {}, {}, 0
        head = r"^(?:\.\w+ )*\.{} (?:\.attribute\([^)]*\) )?\.align (\d+) \.b8 ([\w$]+)\[(\d+)\]"
        for align, name, size in re.findall(head.format("shared"), text, re.M):
            self.symbols[name] = self.shared = -(-self.shared // int(align)) * int(align)
            self.shared += int(size)
        self.shared = -(-self.shared // 16) * 16
        tables = re.findall(head.format("global") + r" = \{([^}]*)\}", text, re.M)
        for _, name, _, content in tables:
            self.tables[name] = np.array(content.split(","), np.uint8)
            self.symbols[name] = self.tables[name].ctypes.data
        self.functions, self.kernel = {}, None
        pattern = r"\.(entry|func)\s+(?:\([^)]*\)\s*)?([\w$]+)\s*\(([^)]*)\)\s*(?:\.\w+ [\d, ]+\s*)*\n\{\n(.*?)\n\}"
        for kind, name, parameters, body in re.findall(pattern, text, re.S):
            named = re.findall(r"\.param \.(\w+) ([\w$]+)", parameters)
            self.functions[name] = function = Function(self, named, body)
            if kind == "entry":
                self.kernel = function


class Function:
    """Blocks of instructions between labels, branches and barriers.

    Attributes
    ----------
    parameters : list of (type, name)
    blocks : list of callable
        ``blocks[k](run, lanes)`` returns where the threads go: a number of a block, or with a predicate
        what it says, for each.
    registers : dict of str to str
        Types of those that are alive from one block to another.
    lengths : list of int
        Number of instructions of each block.
    barriers : set of int
        Blocks that end with one.
    """

    def __init__(self, module, parameters, body):
        self.module, self.parameters = module, parameters
        self._kinds, labels, blocks = {}, {}, [[]]
        body = re.sub(r"^\s*[{}]\s*$", "", body, flags=re.M)
        body = re.sub(r"^(\$\w+):", r"label \1;", body, flags=re.M)
        for statement in (" ".join(each.split()) for each in body.split(";")):
            word = statement.partition(" ")[0]
            if word == "label":
                blocks.append([])
                labels[statement.split()[1]] = len(blocks) - 1
            elif word == ".reg":
                self._declare(statement)
            elif statement and word not in (".param", ".pragma"):
                blocks[-1].append(statement)
                if re.match(r"(@!?%\w+ )?(bra|ret|bar)\b", statement):
                    blocks.append([])
        self.labels, self.barriers = labels, {k for k, each in enumerate(blocks) if each and each[-1][:4] == "bar."}
        used = defaultdict(set)
        for k, block in enumerate(blocks):
            written = set()
            for statement in block:
                names = [name for name in _NAMES.findall(statement) if name in self._kinds]
                target = re.match(r"(?!st|bra|@|bar|call)[\w.]+ (\{[^}]*\}|%\w+),", statement)
                new = set(_NAMES.findall(target[1])) if target else set()
                reads = names[sum(name in self._kinds for name in _NAMES.findall(target[1])) :] if target else names
                for name in reads:
                    used[name].add((k, name in written))
                for name in new:
                    used[name].add((k, True))
                written |= new
        self.registers = {
            name: self._kinds[name] for name, places in used.items()
            if len({k for k, _ in places}) > 1 or not all(inside for _, inside in places)
        }  # fmt: skip
        self.lengths = [len(block) for block in blocks]
        self.blocks = [_Block(self, block, k).function for k, block in enumerate(blocks)]

    def _declare(self, statement):
        _, kind, names = statement.split(None, 2)
        kind = kind[1:]
        width = _WIDTHS.get(kind) or f"{kind[0]}{int(kind[1:]) // 8}"
        for name in names.split(","):
            name, _, count = name.strip().rstrip(">").partition("<")
            for each in [f"{name}{k}" for k in range(int(count))] if count else [name]:
                self._kinds[each] = width

    def kind(self, name):
        return self._kinds[name]


class _Block:
    """The instructions of one block as a Python function."""

    def __init__(self, function, statements, number):
        self._function, self._lines, self._here, self._dirty = function, [], {}, {}
        self._constants, self._next, self._goes = {}, 0, number + 1
        for statement in statements:
            self._statement(statement)
        for name in self._dirty:
            if name in function.registers:
                kind = function.registers[name]
                self._lines.append(f"R[{name!r}][I] = {self._as(*self._here[name], kind)}")
        self._lines.append(f"return {self._goes}")
        source = "def block(run, I):\n R = run.registers\n " + "\n ".join(self._lines)
        names = {**globals(), **self._constants}
        exec(compile(source, f"<block {number}>", "exec"), names)
        self.function = names["block"]

    def _new(self):
        self._next += 1
        return f"v{self._next}"

    def _constant(self, value):
        name = f"K{len(self._constants)}"
        self._constants[name] = value
        return name

    @staticmethod
    def _as(variable, have, want):
        """Return an expression of the bits of a variable as of another type; wider ones lose the upper bits."""
        if have == want:
            return variable
        if int(have[1]) > int(want[1]):
            return f"{variable}.view('u{have[1]}').astype('u{want[1]}').view({want!r})"
        if int(have[1]) < int(want[1]):
            wide = f"{want[0] if have[0] == 'i' else 'u'}{want[1]}"
            return f"{variable}.astype({wide!r}).view({want!r})"
        return f"{variable}.view({want!r})"

    def _read(self, operand, kind):
        """Return an expression of an operand as of that type."""
        operand = operand.strip()
        if operand in self._function._kinds:
            if operand not in self._here:
                have, variable = self._function.kind(operand), self._new()
                self._lines.append(f"{variable} = R[{operand!r}][I]")
                self._here[operand] = variable, have
            return self._as(*self._here[operand], kind)
        if operand[:1] == "%":
            return self._as(f"run.special[{operand!r}][I]", "u4", kind)
        if operand in self._function.module.symbols:
            value = np.uint64(self._function.module.symbols[operand])
        elif operand[:2] in ("0f", "0d"):
            bits = bytes.fromhex(operand[2:])
            value = np.dtype(kind).type(struct.unpack(">f" if operand[1] == "f" else ">d", bits)[0])
        else:
            number = int(operand.rstrip("U"), 0)
            value = np.bool_(number) if kind == "?" else np.array(number & 2 ** (8 * int(kind[1])) - 1, f"u{kind[1]}")
        return self._constant(value if kind == "?" or value.dtype == kind else value.view(kind)[()])

    def _write(self, name, expression, kind):
        variable = self._new()
        self._lines.append(f"{variable} = {expression}")
        if int((kind + "1")[1]) < int((self._function.kind(name) + "1")[1]):  # what is loaded is widened
            wide = f"{kind[0]}{self._function.kind(name)[1]}"
            self._lines.append(f"{variable} = {variable}.astype({wide!r})")
            kind = wide
        self._here[name], self._dirty[name] = (variable, kind), True

    def _statement(self, statement):
        guard = re.match(r"@(!?)(%\w+) (.*)", statement)
        word, _, rest = (guard[3] if guard else statement).partition(" ")
        name, *parts = word.split(".")
        if guard and name != "bra":
            raise NotImplementedError(statement)
        if name == "bra":
            target = self._function.labels[rest.strip()]
            if guard:
                predicate = self._read(guard[2], "?")
                self._goes = f"{'~' if guard[1] else ''}{predicate}, {target}, {self._goes}"
            else:
                self._goes = target
        elif name == "ret":
            self._goes = "run.END"
        elif name == "bar":
            if word != "bar.sync" or rest.strip() != "0":
                raise NotImplementedError(statement)
        elif name in ("ld", "st", "call"):
            getattr(self, f"_{name}")(parts, rest)
        elif name == "cvt":
            self._cvt(parts, *rest.split(","))
        elif name == "cvta":
            self._write(rest.split(",")[0], self._read(rest.split(",")[1], "u8"), "u8")
        elif "{" in rest:
            self._vector(parts, rest)
        else:
            self._compute(word, name, parts, [each.strip() for each in rest.split(",")])

    def _compute(self, word, name, parts, operands):
        kind = _WIDTHS.get(parts[-1]) or parts[-1].replace("s", "i")[0] + str(int(parts[-1][1:]) // 8)
        target, *sources = operands
        if name == "setp" and len(parts) == 2:
            a, b = (self._read(each, kind) for each in sources)
            self._write(target, _put(_COMPARISONS[parts[0]], a=a, b=b), "?")
        elif name == "selp":
            a, b = (self._read(each, kind) for each in sources[:2])
            self._write(target, f"np.where({self._read(sources[2], '?')}, {a}, {b})", kind)
        elif name in ("shl", "shr") and sources[1].isdigit() and int(sources[1]) < 8 * int(kind[1]):
            count = self._constant(np.dtype(kind).type(int(sources[1])))
            self._write(target, f"{self._read(sources[0], kind)} {'<<' if name == 'shl' else '>>'} {count}", kind)
        elif name in ("shl", "shr"):
            a, b = self._read(sources[0], kind), self._read(sources[1], "u4")
            self._write(target, f"shift({a}, {b}, {name == 'shl'})", kind)
        elif word.startswith("mul.wide"):
            wide = f"{kind[0]}{2 * int(kind[1])}"
            a, b = (f"{self._read(each, kind)}.astype({wide!r})" for each in sources)
            self._write(target, f"{a} * {b}", wide)
        else:
            # named with its type, with the kind of its type, or without
            names = (word, word[: word.rindex(".") + 2], word[: word.rindex(".")])
            expression = next((_EXPRESSIONS[each] for each in names if each in _EXPRESSIONS), None)
            if expression is None:
                raise NotImplementedError(word)
            values = {letter: self._read(each, kind) for letter, each in zip("abc", sources, strict=False)}
            self._write(target, _put(expression, **values), kind)

    def _cvt(self, parts, target, source):
        to, of = (each.replace("s", "i")[0] + str(int(each[1:]) // 8) for each in parts[-2:])
        value, modes = self._read(source, of), parts[:-2]
        if "sat" in modes:
            value = f"np.nan_to_num(np.clip({value}, 0, 1))"
        elif of[0] == "f" and to[0] == "f" and modes[:1] in (["rni"], ["rzi"]):
            value = f"np.{'rint' if modes[0] == 'rni' else 'trunc'}({value})"
        elif of[0] == "f" and to[0] != "f":
            if modes[:1] != ["rzi"]:
                raise NotImplementedError(f"cvt.{'.'.join(parts)}")
            value = f"to_integer({value}, {to!r})"
        self._write(target, f"{value}.astype({to!r})", to)

    def _vector(self, parts, rest):
        """Move halves into a register or out of it."""
        names = [each.strip() for each in re.search(r"\{(.*?)\}", rest)[1].split(",")]
        wide, half = f"u{int(parts[0][1:]) // 8}", f"u{int(parts[0][1:]) // 8 // len(names)}"
        bits = 8 * int(half[1])
        if rest.lstrip()[0] == "{":
            value = self._read(rest.rpartition(",")[2], wide)
            for k, name in enumerate(names):
                self._write(name, f"({value} >> {wide_constant(wide, k * bits)}).astype({half!r})", half)
        else:
            halves = [f"({self._read(name, half)}.astype({wide!r}) << {wide_constant(wide, k * bits)})"
                      for k, name in enumerate(names)]  # fmt: skip
            self._write(rest.partition(",")[0].strip(), " | ".join(halves), wide)

    def _place(self, text):
        base, _, offset = text.strip()[1:-1].partition("+")
        address = self._read(base, "u8")
        return f"{address} + {self._constant(np.uint64(int(offset) % 2**64))}" if offset else address

    def _ld(self, parts, rest):
        space, kind = parts[0], parts[-1].replace("s", "i")[0].replace("b", "u") + str(int(parts[-1][1:]) // 8)
        targets, _, place = rest.rpartition(",")
        targets = [each.strip() for each in targets.strip(" {}").split(",")]
        if space == "param":
            name = place.strip()[1:-1].removesuffix("+0")
            self._write(targets[0], f"run.parameters[{name!r}]", kind)
            return
        address = self._place(place)
        for k, target in enumerate(targets):
            step = f" + {self._constant(np.uint64(k * int(kind[1])))}" if k else ""
            self._write(target, f"run.load({space!r}, {address}{step}, {kind!r}, I)", kind)

    def _st(self, parts, rest):
        space, kind = parts[0], parts[-1].replace("s", "i")[0].replace("b", "u") + str(int(parts[-1][1:]) // 8)
        place, _, value = rest.partition(",")
        value = self._read(value.strip(" {}"), kind)
        if space == "param":
            self._lines.append(f"run.parameters[{place.strip()[1:-1].removesuffix('+0')!r}] = {value}")
        else:
            self._lines.append(f"run.store({space!r}, {self._place(place)}, {value}, {kind!r}, I)")

    def _call(self, parts, rest):
        result, name, arguments = re.fullmatch(r"\((\w+)\), ([\w$]+), \((.*?)\)", rest).groups()
        arguments = [each.strip() for each in arguments.split(",")]
        self._lines.append(f"run.parameters[{result!r}] = run.call({name!r}, {arguments!r}, I)")


def wide_constant(kind, value):
    """Return source of a constant of that type."""
    return f"np.{np.dtype(kind).name}({value})"


def _put(expression, **values):
    """Return an expression with its letters replaced."""
    return re.sub(r"\b([abc])\b", lambda match: f"({values[match[1]]})", expression)


# ---- memory -------------------------------------------------------------------------------------------------


class Memory:
    """Arrays of the host that stand for those of a device.

    Attributes
    ----------
    faults : Counter of str
        What was found, and how often.
    """

    def __init__(self):
        self.faults, self._arrays = Counter(), {}
        self._sort()

    def add(self, array):
        """Let kernels touch an array as long as it lives."""
        address, size = array.ctypes.data, array.nbytes
        self._arrays[address] = np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)
        weakref.finalize(array, self.remove, address).atexit = False
        self._sort()

    def remove(self, address):
        """Let them do so no longer."""
        del self._arrays[address]
        self._sort()

    def _sort(self):
        arrays = sorted(self._arrays.items())
        bases = np.array([base for base, _ in arrays], np.uint64)
        ends = np.array([base + array.size for base, array in arrays], np.uint64)
        self._sorted = arrays, bases, ends  # at once, as arrays die whenever they like

    def find(self, addresses, size):
        """Yield (base, bytes, which of the addresses lie in them)."""
        arrays, bases, ends = self._sorted
        which = np.searchsorted(bases, addresses, "right") - 1
        inside = (which >= 0) & (addresses + np.uint64(size) <= ends[which])
        for k in np.unique(which[inside]):
            yield *arrays[k], inside & (which == k)
        if not inside.all():
            self.faults["outside of all arrays"] += 1


class _Touched:
    """Who has touched the elements of one array in one launch."""

    def __init__(self, size):
        self.writer, self.written, self.read = np.full(size, -1), np.full(size, -1), np.full(size, -1)
        self.readers = np.empty((4, size), np.int64)  # least and greatest thread since a barrier, and block
        self.readers[0::2], self.readers[1::2] = 2**62, -1


# ---- running ------------------------------------------------------------------------------------------------


class Launch:
    """A kernel on a grid.

    Parameters
    ----------
    module : Module
    blocks, threads : int
    arguments : list of NumPy scalars
        One for each parameter.
    memory : Memory
    """

    def __init__(self, module, blocks, threads, arguments, memory):
        self.module, self.memory, self.threads = module, memory, threads
        self.shared = np.full(blocks * module.shared // 4, UNWRITTEN[4])
        self.epoch, self.instructions, self._touched = np.zeros(blocks, np.int64), 0, {}
        n = blocks * threads
        number = np.arange(n)
        self._tables = {table.ctypes.data: table for table in module.tables.values()}
        special = {"%tid.x": number % threads, "%ctaid.x": number // threads, "%ntid.x": np.full(n, threads),
                   "%nctaid.x": np.full(n, blocks)}  # fmt: skip
        special = {name: values.astype(np.uint32) for name, values in special.items()}
        names = [name for _, name in module.kernel.parameters]
        self.run = _Run(self, module.kernel, number, special, dict(zip(names, arguments, strict=True)))

    def start(self):
        """Run it to its end."""
        with np.errstate(all="ignore"):
            self.run.go()

    def touch(self, key, size, elements, thread, writes):
        """Note accesses, and the races among them."""
        if key not in self._touched:
            self._touched[key] = _Touched(size)
        seen, block = self._touched[key], thread // self.threads
        epoch = self.epoch[block]
        writer = seen.writer[elements]
        race = (writer >= 0) & (writer != thread)
        race &= (writer // self.threads != block) | (seen.written[elements] == epoch)
        least, greatest, first, last = seen.readers[:, elements]
        if writes:
            race |= (last >= 0) & ((first != block) | (last != block))
            race |= (seen.read[elements] == epoch) & ((least != thread) | (greatest != thread))
            seen.writer[elements], seen.written[elements] = thread, epoch
            race |= seen.writer[elements] != thread
        else:
            later = elements[seen.read[elements] != epoch]
            seen.readers[0, later], seen.readers[1, later] = 2**62, -1
            seen.read[elements] = epoch
            for row, what in enumerate((thread, thread, block, block)):
                (np.maximum if row % 2 else np.minimum).at(seen.readers[row], elements, what)
        if race.any():
            self.memory.faults["a race in {} memory".format("shared" if key is None else "global")] += 1


class _Run:
    """A function, the kernel or one that it calls, for some threads."""

    def __init__(self, launch, function, threads, special, parameters):
        self.launch, self.function, self.thread, self.special = launch, function, threads, special
        self.parameters, self.END = parameters, len(function.blocks)
        self.registers = {name: np.zeros(len(threads), kind) for name, kind in function.registers.items()}

    def go(self):
        """Run until all threads have ended."""
        at, waits = np.zeros(len(self.thread), np.int64), np.zeros(len(self.thread), bool)
        everyone, function = slice(None), self.function
        while True:
            runnable = np.where(waits, self.END, at)
            block = int(runnable.min(initial=self.END))
            if block == self.END:
                if not waits.any():
                    return
                self._meet(at, waits)
                waits[:] = False
                continue
            who = runnable == block
            lanes = everyone if who.all() else np.flatnonzero(who)
            self.launch.instructions += function.lengths[block] * int(who.sum())
            goes = function.blocks[block](self, lanes)
            if type(goes) is tuple:
                predicate, target, otherwise = goes
                goes = np.where(predicate, target, otherwise)
            at[lanes] = goes
            if block in function.barriers:
                waits[lanes] = True

    def _meet(self, at, waits):
        """Let the threads of each block pass the barrier that all of them have come to."""
        for block in np.unique(self.thread[waits] // self.launch.threads):
            places = at[self.thread // self.launch.threads == block]
            if len(np.unique(places)) > 1:
                self.launch.memory.faults["threads of a block at different barriers"] += 1
            self.launch.epoch[block] += 1

    def call(self, name, arguments, lanes):
        """Run a function for some threads, and return what it has returned."""
        function, threads = self.launch.module.functions[name], self.thread[lanes]
        names = (name for _, name in function.parameters)
        given = {name: np.broadcast_to(self.parameters[each], threads.shape) for name, each in zip(names, arguments)}
        run = _Run(self.launch, function, threads, {}, given)
        run.go()
        return run.parameters["func_retval0"]

    def load(self, space, address, kind, lanes):
        thread = self.thread[lanes]
        address = np.broadcast_to(address, thread.shape)
        result = np.empty(thread.shape, kind)
        for part, elements, view in self._find(space, address, kind, thread, False):
            result[part] = view[elements]
        size = result.itemsize
        if size in UNWRITTEN and (result.view(UNWRITTEN[size].dtype) == UNWRITTEN[size]).any():
            self.launch.memory.faults[f"a read of {space} memory that nobody has written"] += 1
        elif space == "shared" and size == 8 and (result.view("u4") == UNWRITTEN[4]).any():
            self.launch.memory.faults[f"a read of {space} memory that nobody has written"] += 1
        return result

    def store(self, space, address, value, kind, lanes):
        thread = self.thread[lanes]
        address, value = np.broadcast_to(address, thread.shape), np.broadcast_to(value, thread.shape)
        for part, elements, view in self._find(space, address, kind, thread, True):
            view[elements] = value[part]

    def _find(self, space, address, kind, thread, writes):
        """Yield (which lanes, which elements, of what); accesses that are faulty are noted and left out."""
        size, launch = int(kind[1]), self.launch
        if (address % np.uint64(size)).any():
            launch.memory.faults["not aligned"] += 1
            return
        if space == "shared":
            inside = address + np.uint64(size) <= launch.module.shared
            if not inside.all():
                launch.memory.faults["outside of shared memory"] += 1
            within, block = address[inside].astype(np.int64), thread[inside] // launch.threads
            words = (block * launch.module.shared + within) // 4
            for half in range(size // 4):
                launch.touch(None, launch.shared.size, words + half, thread[inside], writes)
            yield inside, words // (size // 4), launch.shared.view(kind)
            return
        if space != "global":
            raise NotImplementedError(space)
        for base, array in self.launch._tables.items():
            if ((address >= base) & (address < base + array.size)).all():
                yield slice(None), (address.astype(np.int64) - base) // size, array.view(kind)
                return
        for base, array, inside in launch.memory.find(address, size):
            elements = (address[inside].astype(np.int64) - base) // size
            launch.touch((base, size), array.size // size, elements, thread[inside], writes)
            yield inside, elements, array[: array.size // size * size].view(kind)
