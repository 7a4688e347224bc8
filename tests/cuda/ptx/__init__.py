"""PTX without a GPU: an interpreter that notes what compute-sanitizer would.

What numba-cuda has compiled is run instruction by instruction, all threads of a launch at a time: a register
is an array with an element for each thread. Threads that part at a branch go on by themselves, those that are
furthest behind first, and meet again. Every access is checked: that it lies in an array, is aligned, does not
read what nobody has written, and that no two threads touch one element, one of them writing, with no barrier
between. So is every barrier: that all threads of a block come to the same one.

Only what Numba's compiler writes for this project is known; anything else is a `NotImplementedError`.
Approximate instructions are computed exactly. The terms are those of NVIDIA's "PTX ISA".
"""
