"""How fast the kernels are, beside other libraries and beside what the machine can do.

`run` measures a suite of layers, `doctor` examines the installation; the command line's ``bench`` and
``doctor`` are thin doors to these.  Results are
compared before anything is timed, contenders take turns in every round, and the peaks of arithmetic
and copying are measured beside each layer.
"""
