"""Text of PTX to Python functions, one for each run of instructions that nothing enters or leaves midway."""

import re
from collections import defaultdict

import numpy as np

from ptx.arithmetic import COMPARISONS, FUNCTIONS, expression_of

__all__ = ["Function", "Module"]

_NAME = re.compile(r"[%$\w.]+")
_WHOLE = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}  # modes of rounding to a whole number
_ENDS = re.compile(r"(@!?%\w+ )?(bra|ret|bar)\b")


def _dtype(kind):
    """Return the type of NumPy for one of PTX, such as "s32"; of untyped bits those of unsigned numbers."""
    return "?" if kind == "pred" else {"s": "i", "b": "u"}.get(kind[0], kind[0]) + str(int(kind[1:]) // 8)


def _size(dtype):
    return 1 if dtype == "?" else int(dtype[1:])


class Module:
    """A compiled file: a kernel and the functions that it calls.

    Attributes
    ----------
    kernel : Function
    functions : dict of str to Function
    shared : int
        Bytes of shared memory of a block.
    tables : list of ndarray of uint8
        Constants in global memory.
    symbols : dict of str to int
        Addresses of both.
    """

    def __init__(self, text):
        text = re.sub(r"//[^\n]*", "", text)
        self.symbols, self.tables, self.shared, self.functions = {}, [], 0, {}
        array = r"^(?:\.\w+ )*\.{} \.align (\d+) \.b8 ([\w$]+)\[(\d+)\]"
        for align, name, size in re.findall(array.format("shared"), text, re.M):
            self.symbols[name] = -(-self.shared // int(align)) * int(align)
            self.shared = self.symbols[name] + int(size)
        self.shared = -(-self.shared // 16) * 16
        for _, name, _, content in re.findall(array.format("global") + r" = \{([^}]*)\}", text, re.M):
            self.tables.append(np.array(content.split(","), np.uint8))
            self.symbols[name] = self.tables[-1].ctypes.data
        head = r"\.(entry|func)\s+(?:\([^)]*\)\s*)?([\w$]+)\s*\(([^)]*)\)\s*"
        for kind, name, parameters, body in re.findall(head + r"\n\{\n(.*?)\n\}", text, re.S):
            named = [(of, _dtype(bits)) for bits, of in re.findall(r"\.param \.(\w+) ([\w$]+)", parameters)]
            self.functions[name] = function = Function(self.symbols, dict(named), body)
            if kind == "entry":
                self.kernel = function
            elif function.barriers:
                raise NotImplementedError(f"a barrier in {name}, which a kernel calls")


class Function:
    """A kernel, or what one calls.

    Attributes
    ----------
    parameters : dict of str to str
        Their types, by their names.
    basic_blocks : list of callable
        ``basic_blocks[k](run, threads)`` runs some threads and returns the number of the one that they go to,
        or a predicate, the number where it holds and the number where it does not.
    barriers : set of int
        Those that end with one.
    registers : dict of str to str
        Types of those that are live from one to another.
    """

    def __init__(self, symbols, parameters, body):
        self.parameters, self.kinds, self.labels, blocks = parameters, {}, {}, [[]]
        self.symbols = symbols
        body = re.sub(r"^\s*[{}]\s*$", "", body, flags=re.M)
        body = re.sub(r"^(\$\w+):", r"label \1;", body, flags=re.M)
        for statement in (" ".join(each.split()) for each in body.split(";")):
            word, _, rest = statement.partition(" ")
            if word == "label":
                blocks.append([])
                self.labels[rest] = len(blocks) - 1
            elif word == ".reg":
                self._declare(*rest.split(None, 1))
            elif statement and word not in (".param", ".pragma"):
                blocks[-1].append(statement)
                if _ENDS.match(statement):
                    blocks.append([])
        self.barriers = {k for k, block in enumerate(blocks) if block and block[-1].startswith("bar.")}
        self.registers = self._live_in(blocks)
        self.basic_blocks = [_BasicBlock(self, block, k + 1).function for k, block in enumerate(blocks)]

    def _declare(self, kind, names):
        for name in names.split(","):
            name, _, count = name.strip().rstrip(">").partition("<")
            for each in [f"{name}{k}" for k in range(int(count))] if count else [name]:
                self.kinds[each] = _dtype(kind[1:])

    def _live_in(self, blocks):
        """Return the registers that are read in a block that has not written them before."""
        found, written_in = set(), defaultdict(set)
        for k, block in enumerate(blocks):
            for statement in block:
                targets, sources = _targets_and_sources(statement)
                for name in sources:
                    if name in self.kinds and k not in written_in[name]:
                        found.add(name)
                for name in targets:
                    written_in[name].add(k)
        return {name: self.kinds[name] for name in found}


def _targets_and_sources(statement):
    """Return the names that a statement writes, and those that it may read."""
    match = re.match(r"(?!st|bra|@|bar|call)[\w.]+ (\{[^}]*\}|[%\w]+),", statement)
    end = match.end() if match else 0
    return _NAME.findall(match[1]) if match else [], _NAME.findall(statement[end:])


class _BasicBlock:
    """Writes the Python function of a basic block.

    A register is read from its array when it is first needed, for the threads that are there, and stored at
    the end if it is live in others; between, it is a variable of the type of the last instruction.
    """

    def __init__(self, function, statements, following):
        self._of, self._lines, self._known, self._new = function, [], {}, set()
        self._names, self._next = dict(FUNCTIONS), str(following)
        self._targets = {name for each in statements for name in _targets_and_sources(each)[0]}
        for statement in statements:
            try:
                self._add(statement)
            except (AttributeError, IndexError, KeyError, ValueError) as error:
                raise NotImplementedError(statement) from error
        for name in sorted(self._new & set(function.registers)):
            self._lines.append(f"R[{name!r}][I] = {self._as(*self._known[name], function.kinds[name])}")
        source = "\n ".join(["def block(run, I):", "R = run.registers", *self._lines, f"return {self._next}"])
        exec(compile(source, "<ptx>", "exec"), self._names)
        self.function = self._names["block"]

    # -- operands

    def _constant(self, value):
        name = f"K{len(self._names)}"
        self._names[name] = value
        return name

    @staticmethod
    def _as(variable, have, want):
        """Return the bits of a variable as of another type; the upper ones are lost, or zero."""
        if have == want:
            return variable
        if _size(have) > _size(want):
            return f"{variable}.view('u{have[1]}').astype('u{want[1]}').view({want!r})"
        if _size(have) < _size(want):
            return f"{variable}.astype('{'i' if have[0] == 'i' else 'u'}{want[1]}').view({want!r})"
        return f"{variable}.view({want!r})"

    def _read(self, operand, kind):
        """Return an expression of an operand as of that type."""
        if operand in self._of.kinds:
            if operand not in self._known:
                variable = f"v{len(self._lines)}"
                # what is stored at the end must not change what was read
                copy = ".copy()" if operand in self._targets else ""
                self._lines.append(f"{variable} = R[{operand!r}][I]{copy}")
                self._known[operand] = variable, self._of.kinds[operand]
            return self._as(*self._known[operand], kind)
        if operand[0] == "%":
            return self._as(f"run.special[{operand!r}][I]", "u4", kind)
        if operand in self._of.symbols:
            return self._constant(np.uint64(self._of.symbols[operand]))
        if operand[:2] in ("0f", "0d"):
            bits = np.uint32 if operand[1] == "f" else np.uint64
            value = bits(int(operand[2:], 16)).view(f"f{bits(0).itemsize}")
        else:
            size, value = _size(kind), int(operand.rstrip("U"), 0)
            value = np.bool_(value) if kind == "?" else np.uint64(value % 2**64).astype(f"u{size}")
        return self._constant(value if value.dtype == kind else value.view(kind))

    def _write(self, target, expression, kind):
        variable = f"v{len(self._lines)}"
        declared = self._of.kinds[target]
        if _size(kind) < _size(declared):  # a load of less than a register is widened
            wide = f"{'i' if kind[0] == 'i' else 'u'}{declared[1]}"
            expression, kind = f"({expression}).astype({wide!r})", wide
        self._lines.append(f"{variable} = {expression}")
        self._known[target] = variable, kind
        self._new.add(target)

    def _address(self, text):
        base, _, offset = text.strip()[1:-1].partition("+")
        address = self._read(base, "u8")
        return f"{address} + {self._constant(np.uint64(int(offset) % 2**64))}" if offset else address

    # -- statements

    def _add(self, statement):
        guard, word, rest = re.fullmatch(r"(@!?%\w+ )?(\S+)(.*)", statement).groups()
        name, *parts = word.split(".")
        operands = [each.strip() for each in rest.split(",")]
        if guard and name != "bra":
            raise NotImplementedError(statement)
        if name == "bra":
            target = self._of.labels[rest.strip()]
            if guard:
                predicate = self._read(guard.strip("@! "), "?")
                target = f"{'~' if '!' in guard else ''}{predicate}, {target}, {self._next}"
            self._next = str(target)
        elif name == "ret":
            self._next = "run.end"
        elif name == "bar":
            if (word, rest.strip()) != ("bar.sync", "0"):
                raise NotImplementedError(statement)
        elif name in ("ld", "st"):
            getattr(self, f"_{name}")(parts[0], _dtype(parts[-1]), rest, statement)
        elif name == "call":
            result, called, given = re.fullmatch(r"\((\w+)\), ([\w$]+), \((.*)\)", rest.strip()).groups()
            given = [each.strip() for each in given.split(",")]
            self._lines.append(f"run.call({called!r}, {given!r}, {result!r}, I)")
        elif name == "cvt":
            self._cvt(word, parts, *operands)
        elif "{" in rest:
            self._pack(_dtype(parts[0]), rest)
        else:
            self._compute(word, name, parts, operands)

    def _compute(self, word, name, parts, operands):
        kind, (target, *sources) = _dtype(parts[-1]), operands
        kinds = [kind] * len(sources)
        if name == "setp" and len(parts) == 2:
            expression, result = COMPARISONS[parts[0]], "?"
        elif name == "selp":
            expression, kinds[2], result = "np.where(c, a, b)", "?", kind
        elif word.startswith("mul.wide."):
            result = f"{kind[0]}{2 * _size(kind)}"
            expression = f"a.astype({result!r}) * b.astype({result!r})"
        elif name in ("shl", "shr"):
            expression, kinds[1], result = expression_of(word), "u4", kind
            if sources[1].isdigit() and int(sources[1]) < 8 * _size(kind):  # nearly all of them
                expression, kinds[1] = f"a {'<<' if name == 'shl' else '>>'} b", kind
        else:
            expression, result = expression_of(word), kind
        pairs = zip(sources, kinds, strict=True)
        values = {letter: self._read(*each) for letter, each in zip("abc", pairs, strict=False)}
        self._write(target, re.sub(r"\b[abc]\b", lambda match: f"({values[match[0]]})", expression), result)

    def _cvt(self, word, parts, target, source):
        to, of = (_dtype(each) for each in parts[-2:])
        value, mode = self._read(source, of), ".".join(parts[:-2])
        if mode == "sat" and to[0] == of[0] == "f":
            value = f"saturate({value})"
        elif mode in _WHOLE and to[0] == of[0] == "f":
            value = f"np.{_WHOLE[mode]}({value})"
        elif mode == "rzi":
            value = f"to_integer({value}, {to!r})"
        elif mode not in ("", "rn") or (of[0] == "f" and to[0] != "f"):
            raise NotImplementedError(word)
        self._write(target, f"({value}).astype({to!r})", to)

    def _pack(self, wide, rest):
        """Add a move into a register from its halves, or out of it into them."""
        names = [each.strip() for each in re.search(r"\{(.*?)\}", rest)[1].split(",")]
        half = f"u{_size(wide) // len(names)}"
        counts = [self._constant(np.dtype(wide).type(8 * _size(half) * k)) for k in range(len(names))]
        if rest.strip()[0] == "{":
            value = self._read(rest.rpartition(",")[2].strip(), wide)
            for name, count in zip(names, counts, strict=True):
                self._write(name, f"({value} >> {count}).astype({half!r})", half)
        else:
            values = [f"{self._read(name, half)}.astype({wide!r})" for name in names]
            shifted = [f"({value} << {count})" for value, count in zip(values, counts, strict=True)]
            self._write(rest.partition(",")[0].strip(), " | ".join(shifted), wide)

    def _ld(self, space, kind, rest, statement):
        targets, _, place = rest.rpartition(",")
        targets = [each.strip() for each in targets.strip(" {}").split(",")]
        if space == "param":
            (target,) = targets
            self._write(target, f"run.load_param({_parameter(place)!r}, {kind!r}, I)", kind)
            return
        address = self._address(place)
        self._lines.append(f"run.check_aligned({address}, {len(targets) * _size(kind)}, {statement!r})")
        for k, target in enumerate(targets):
            at = f"{address} + {self._constant(np.uint64(k * _size(kind)))}"
            self._write(target, f"run.load({space!r}, {at}, {kind!r}, I, {statement!r})", kind)

    def _st(self, space, kind, rest, statement):
        place, _, value = rest.partition(",")
        value = self._read(value.strip(), kind)
        if space == "param":
            self._lines.append(f"run.store_param({_parameter(place)!r}, {value}, {kind!r}, I)")
        else:
            address = self._address(place)
            self._lines.append(f"run.check_aligned({address}, {_size(kind)}, {statement!r})")
            self._lines.append(f"run.store({space!r}, {address}, {value}, {kind!r}, I, {statement!r})")


def _parameter(place):
    return place.strip()[1:-1].removesuffix("+0")
