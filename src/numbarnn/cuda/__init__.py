"""The same cells on a GPU, compiled by numba.cuda; imported only where ``device="cuda"`` asks for it.

    driver.py      where numba.cuda comes from, what is wrong with a device, arrays on it
    functions.py   a cell's equations, and tanh, sigmoid, ..., for scalars in a kernel
    plans.py       how a layer is spread over the threads of a block; which layers go on the chip
    loops.py       the time loop of a layer as one launch
    scan.py        one step of it
    halves.py      one step of a cell that has two products, or whose h is a projection
    noise.py       recurrent dropout and zoneout in all three
    blas.py        products, by cuBLAS
    program.py     launches and products, made ready once and run many times
    pointwise.py   kernels that have an element a thread
    directions.py  one direction of a layer, by what stands above
    layers.py      what `numbarnn.layer.Pass` is on a CPU
    dense.py, losses.py, optimizers.py, network.py, training.py   likewise
    windows.py     windows of series, cut out there
    forecasters.py, decoders.py, likelihoods.py   the networks that read them, and their losses
    resources.py   every kernel compiled without a GPU, and the registers that it takes

All arrays are flat. Letters are those of `numbarnn.kernels`: T steps, B rows of a batch, I inputs, H units;
S slots of a cell, X and R gates with rows in ``weight_ih`` and ``weight_hh``, E states behind h, K parameters
of single units. The order of sums follows from sizes alone and nothing is added atomically: a run is repeated
bit for bit.
"""
