"""Launches: memory, who has touched it, and threads from block to block."""

import ctypes
import weakref

import numpy as np

__all__ = ["UNWRITTEN", "Launch", "Memory"]

# what stands where nobody has written, by the bytes of an element: NaNs that no computation gives
UNWRITTEN = {4: np.uint32(0x7FBAD0BA), 8: np.uint64(0x7FBAD0BA7FBAD0BA)}
_FAR = 2**62


class Memory:
    """Arrays of the host that kernels may touch."""

    def __init__(self):
        self._arrays, self._gone = {}, []
        self._sort()

    def add(self, array):
        """Let kernels touch an array as long as it lives."""
        self._forget()  # before one that is there now where one was that is gone
        address, size = array.ctypes.data, array.nbytes
        self._arrays[address] = np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)
        weakref.finalize(array, self._gone.append, address).atexit = False
        self._sort()

    def _forget(self):
        while self._gone:
            del self._arrays[self._gone.pop()]

    def _sort(self):
        arrays = sorted(self._arrays.items())
        bases = np.array([base for base, _ in arrays], np.uint64)
        ends = np.array([base + array.size for base, array in arrays], np.uint64)
        self._sorted = arrays, bases, ends

    def find(self, addresses, size):
        """Yield (base, bytes, which of the addresses lie there)."""
        if self._gone:
            self._forget()
            self._sort()
        arrays, bases, ends = self._sorted
        if not arrays:
            return
        which = np.searchsorted(bases, addresses, "right") - 1
        inside = (which >= 0) & (addresses + np.uint64(size) <= ends[which])
        for k in np.unique(which[inside]):
            yield *arrays[k], inside & (which == k)


class _Touched:
    """Who has touched the elements of one array in one launch."""

    def __init__(self, size):
        self.writer, self.written, self.read = np.full((3, size), -1)
        # least and greatest thread that has read it since a barrier, least and greatest block that ever has
        self.readers = np.full((4, size), -1)
        self.readers[0::2] = _FAR

    def races(self, elements, thread, block, epoch, writes):
        """Note accesses; return whether any races with one before it, or with another of them."""
        writer = self.writer[elements]
        race = (writer >= 0) & (writer != thread)
        race &= (block[1] != writer // block[0]) | (self.written[elements] == epoch)
        least, greatest, first, last = self.readers[:, elements]
        if writes:
            race |= (last >= 0) & ((first != block[1]) | (last != block[1]))
            race |= (self.read[elements] == epoch) & ((least != thread) | (greatest != thread))
            self.writer[elements], self.written[elements] = thread, epoch
            race |= self.writer[elements] != thread
        else:
            later = elements[self.read[elements] != epoch]
            self.readers[0, later], self.readers[1, later] = _FAR, -1
            self.read[elements] = epoch
            for k, what in enumerate((thread, thread, block[1], block[1])):
                (np.maximum if k % 2 else np.minimum).at(self.readers[k], elements, what)
        return race.any()


class Launch:
    """A kernel on a grid.

    Parameters
    ----------
    module : Module
    blocks, threads : int
    arguments : iterable of number
        One for each parameter.
    memory : Memory

    Attributes
    ----------
    instructions : int
        How many were run, by all threads together.
    faults : set of str
        What was done that should not be.
    """

    def __init__(self, module, blocks, threads, arguments, memory):
        self.module, self.memory, self.threads = module, memory, threads
        self.instructions, self.faults, self.epoch = 0, set(), np.zeros(blocks, np.int64)
        self._shared = np.full(blocks * module.shared // 4, UNWRITTEN[4])
        self._touched = {}
        thread = np.arange(blocks * threads)
        special = {"%tid.x": thread % threads, "%ctaid.x": thread // threads, "%ntid.x": threads + 0 * thread,
                   "%nctaid.x": blocks + 0 * thread}  # fmt: skip
        special = {name: values.astype(np.uint32) for name, values in special.items()}
        given = zip(module.kernel.parameters.items(), arguments, strict=True)
        parameters = {name: np.array(value).astype(kind)[()] for (name, kind), value in given}
        self._run = _Run(self, module.kernel, thread, special, parameters)

    def start(self):
        """Run it to its end."""
        with np.errstate(all="ignore"):
            self._run.go()

    def places(self, space, address, kind, thread, writes, statement):
        """Check accesses, and yield (which of them, the array they are in, its elements).

        Those that must not be are noted, and left out.
        """
        size, count = int(kind[1]), 0
        if (address % np.uint64(size)).any():
            self.faults.add(f"not aligned: {statement}")
            return
        for which, key, array, at in self._found(space, address, size, thread):
            elements, who = at // size, thread[which]
            count += len(who)
            if key is not None:
                if key not in self._touched:
                    self._touched[key] = _Touched(array.size // size)
                block = who // self.threads
                if self._touched[key].races(elements, who, (self.threads, block), self.epoch[block], writes):
                    self.faults.add(f"a race: {statement}")
            yield which, array[: array.size // size * size].view(kind), elements
        if count < len(thread):
            self.faults.add(f"outside of all arrays: {statement}")

    def _found(self, space, address, size, thread):
        """Yield (which, key of the array or None for constants, its bytes, places in them)."""
        if space == "shared":
            at = address.astype(np.int64)
            within = (at >= 0) & (at <= self.module.shared - size)
            at = thread[within] // self.threads * self.module.shared + at[within]
            yield within, (space, size), self._shared.view(np.uint8), at
        elif space == "global":
            for table in self.module.tables:
                at = address.astype(np.int64) - table.ctypes.data
                inside = (at >= 0) & (at <= table.size - size)
                if inside.any():
                    yield inside, None, table, at[inside]
            for base, array, inside in self.memory.find(address, size):
                yield inside, (base, size), array, address[inside].astype(np.int64) - base
        else:
            raise NotImplementedError(space)


class _Run:
    """A kernel, or a function that one calls, and the threads that run it.

    Attributes
    ----------
    registers : dict of str to ndarray
    special : dict of str to ndarray
        Registers that say which thread it is.
    parameters : dict of str to number or ndarray
        What was given and, of called functions and what they return, what is there for each thread.
    end : int
        Where threads are that have ended.
    """

    def __init__(self, launch, function, thread, special, parameters):
        self._launch, self._function, self._thread = launch, function, thread
        self.special, self.parameters, self.end = special, parameters, len(function.blocks)
        self.registers = {name: np.zeros(len(thread), kind) for name, kind in function.registers.items()}

    def go(self):
        """Run until all threads have ended."""
        function = self._function
        at, waits = np.zeros(len(self._thread), np.int64), np.zeros(len(self._thread), bool)
        while True:
            place = np.where(waits, self.end, at)
            block = int(place.min())
            if block < self.end:
                who = place == block
                lanes = slice(None) if who.all() else np.flatnonzero(who)
                self._launch.instructions += function.lengths[block] * int(who.sum())
                goes = function.blocks[block](self, lanes)
                at[lanes] = np.where(*goes) if type(goes) is tuple else goes
                waits[lanes] = block in function.barriers
            elif waits.any():
                self._pass(at, waits)
            else:
                return

    def _pass(self, at, waits):
        """Let threads pass the barrier that all of their block have come to."""
        of = self._thread // self._launch.threads
        for block in np.unique(of[waits]):
            if len(np.unique(at[of == block])) > 1:
                self._launch.faults.add("threads of a block are at different barriers")
        self._launch.epoch[np.unique(of[waits])] += 1
        waits[:] = False

    def load(self, space, address, kind, lanes, statement):
        """Return what is there, for each of the threads."""
        thread = self._thread[lanes]
        result = np.zeros(len(thread), kind)
        address = np.broadcast_to(address, result.shape)
        for which, array, elements in self._launch.places(space, address, kind, thread, False, statement):
            result[which] = array[elements]
        if result.itemsize in UNWRITTEN:
            unwritten = UNWRITTEN[result.itemsize]
            if (result.view(unwritten.dtype) == unwritten).any():
                self._launch.faults.add(f"nobody has written: {statement}")
        return result

    def store(self, space, address, value, kind, lanes, statement):
        """Store a value of each of the threads."""
        thread = self._thread[lanes]
        address, value = (np.broadcast_to(each, thread.shape) for each in (address, value))
        for which, array, elements in self._launch.places(space, address, kind, thread, True, statement):
            array[elements] = value[which]

    def given(self, name, lanes):
        """Return a parameter; those of a kernel are the same for all threads."""
        value = self.parameters[name]
        return value[lanes] if value.ndim else value

    def give(self, name, value, kind, lanes):
        """Store a parameter of what is called, or what is returned."""
        if name not in self.parameters:
            self.parameters[name] = np.zeros(len(self._thread), kind)
        self.parameters[name][lanes] = value

    def call(self, name, given, result, lanes):
        """Run a function."""
        function = self._launch.module.functions[name]
        pairs = zip(function.parameters, given, strict=True)
        parameters = {of: self.parameters[each][lanes] for of, each in pairs}
        run = _Run(self._launch, function, self._thread[lanes], {}, parameters)
        run.go()
        (returned,) = (value for of, value in run.parameters.items() if of.startswith("func_retval"))
        self.give(result, returned, returned.dtype, lanes)
