"""Launches: memory, who has touched it, and threads from block to block."""

import ctypes
import weakref

import numpy as np

__all__ = ["UNWRITTEN", "Launch", "Memory"]

# what stands where nobody has written, by the bytes of an element: NaN in float32 and float64, with a payload
# that no computation begins with
UNWRITTEN = {4: np.uint32(0x7FF77FF7), 8: np.uint64(0x7FF77FF77FF77FF7)}
_NOBODY = 2**62  # greater than the number of any thread


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


class _Shadow:
    """Who has accessed the elements of one array in one launch."""

    def __init__(self, size, n_elements):
        self.size = size  # of an element
        self.writer, self.write_epoch, self.read_epoch = np.full((3, n_elements), -1)
        # least and greatest thread that has read an element since a barrier, and block that ever has
        self.first_reader, self.first_block = np.full((2, n_elements), _NOBODY)
        self.last_reader, self.last_block = np.full((2, n_elements), -1)

    def store(self, elements, thread, block, writer_block, epoch):
        """Note stores; return which of them race."""
        race = self._races_with_stores(elements, thread, block, writer_block, epoch)
        race |= (self.last_block[elements] >= 0) & (
            (self.first_block[elements] != block) | (self.last_block[elements] != block)
        )
        race |= (self.read_epoch[elements] == epoch) & (
            (self.first_reader[elements] != thread) | (self.last_reader[elements] != thread)
        )
        self.writer[elements], self.write_epoch[elements] = thread, epoch
        return race | (self.writer[elements] != thread)

    def load(self, elements, thread, block, writer_block, epoch):
        """Note loads; return which of them race."""
        later = elements[self.read_epoch[elements] != epoch]
        self.first_reader[later], self.last_reader[later] = _NOBODY, -1
        self.read_epoch[elements] = epoch
        np.minimum.at(self.first_reader, elements, thread)
        np.maximum.at(self.last_reader, elements, thread)
        np.minimum.at(self.first_block, elements, block)
        np.maximum.at(self.last_block, elements, block)
        return self._races_with_stores(elements, thread, block, writer_block, epoch)

    def _races_with_stores(self, elements, thread, block, writer_block, epoch):
        writer = self.writer[elements]
        unordered = (writer_block(writer) != block) | (self.write_epoch[elements] == epoch)
        return (writer >= 0) & (writer != thread) & unordered


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
    faults : set of str
        What was done that should not be.
    """

    def __init__(self, module, blocks, threads, arguments, memory):
        self.module, self.memory, self.threads = module, memory, threads
        self.faults, self.epoch = set(), np.zeros(blocks, np.int64)
        self._shared = np.full(blocks * module.shared // 4, UNWRITTEN[4])
        self._shadows = {}
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
        for which, key, array, at in self._found(space, address, size, thread):
            elements, who = at // size, thread[which]
            count += len(who)
            if key is not None:
                shadow = self._shadows.setdefault(key, _Shadow(size, array.size // size))
                block = self.block_of(who)
                access = shadow.store if writes else shadow.load
                if size != shadow.size:
                    self.faults.add(f"elements of another size than before: {statement}")
                elif access(elements, who, block, self.block_of, self.epoch[block]).any():
                    self.faults.add(f"a race: {statement}")
            yield which, array[: array.size // size * size].view(kind), elements
        if count < len(thread):
            self.faults.add(f"outside of all arrays: {statement}")

    def block_of(self, thread):
        """Return the block of the grid that threads are in."""
        return thread // self.threads

    def _found(self, space, address, size, thread):
        """Yield (which, key of the array or None for constants, its bytes, places in them)."""
        if space == "shared":
            at = address.astype(np.int64)
            within = (at >= 0) & (at <= self.module.shared - size)
            at = self.block_of(thread[within]) * self.module.shared + at[within]
            yield within, (space, size), self._shared.view(np.uint8), at
        elif space == "global":
            for table in self.module.tables:
                at = address.astype(np.int64) - table.ctypes.data
                inside = (at >= 0) & (at <= table.size - size)
                if inside.any():
                    yield inside, None, table, at[inside]
            for base, array, inside in self.memory.find(address, size):
                yield inside, base, array, address[inside].astype(np.int64) - base
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
        self.special, self.parameters, self.end = special, parameters, len(function.basic_blocks)
        self.registers = {name: np.zeros(len(thread), kind) for name, kind in function.registers.items()}

    def go(self):
        """Run until all threads have ended."""
        function = self._function
        pc, waiting = np.zeros(len(self._thread), np.int64), np.zeros(len(self._thread), bool)
        while True:
            runnable = np.where(waiting, self.end, pc)
            here = int(runnable.min())
            if here < self.end:
                chosen = runnable == here
                threads = slice(None) if chosen.all() else np.flatnonzero(chosen)
                following = function.basic_blocks[here](self, threads)
                pc[threads] = np.where(*following) if type(following) is tuple else following
                waiting[threads] = here in function.barriers
            elif waiting.any():
                self._synchronize(pc, waiting)
            else:
                return

    def _synchronize(self, pc, waiting):
        """Let threads pass the barrier that all of their block have come to."""
        block_of = self._launch.block_of(self._thread)
        blocks = np.unique(block_of[waiting])
        for block in blocks:
            if len(np.unique(pc[block_of == block])) > 1:
                self._launch.faults.add("threads of a block are at different barriers")
        self._launch.epoch[blocks] += 1
        waiting[:] = False

    def check_aligned(self, address, size, statement):
        """Note addresses that are no multiple of the bytes of an access, elements of a vector together."""
        if (address % np.uint64(size)).any():
            self._launch.faults.add(f"not aligned: {statement}")

    def load(self, space, address, kind, threads, statement):
        """Return what is there, for each of the threads."""
        thread = self._thread[threads]
        result = np.zeros(len(thread), kind)
        address = np.broadcast_to(address, result.shape)
        for which, array, elements in self._launch.places(space, address, kind, thread, False, statement):
            result[which] = array[elements]
        if result.itemsize in UNWRITTEN:
            unwritten = UNWRITTEN[result.itemsize]
            if (result.view(unwritten.dtype) == unwritten).any():
                self._launch.faults.add(f"nobody has written: {statement}")
        return result

    def store(self, space, address, value, kind, threads, statement):
        """Store a value of each of the threads."""
        thread = self._thread[threads]
        address, value = (np.broadcast_to(each, thread.shape) for each in (address, value))
        for which, array, elements in self._launch.places(space, address, kind, thread, True, statement):
            array[elements] = value[which]

    def load_param(self, name, kind, threads):
        """Return a parameter; those of a kernel are the same for all threads."""
        value = self.parameters[name].view(kind)
        return value[threads] if value.ndim else value

    def store_param(self, name, value, kind, threads):
        """Store a parameter of what is called, or what is returned."""
        stored, before = np.zeros(len(self._thread), kind), self.parameters.get(name)
        if before is not None and before.dtype == stored.dtype:
            stored[:] = before  # of threads that are not here
        stored[threads] = value
        self.parameters[name] = stored  # what was loaded before stays what it was

    def call(self, name, given, result, threads):
        """Run a function."""
        function = self._launch.module.functions[name]
        pairs = zip(function.parameters, given, strict=True)
        parameters = {of: self.parameters[each][threads] for of, each in pairs}
        run = _Run(self._launch, function, self._thread[threads], {}, parameters)
        run.go()
        (returned,) = (value for of, value in run.parameters.items() if of.startswith("func_retval"))
        self.store_param(result, returned, returned.dtype, threads)
