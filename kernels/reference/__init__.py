"""The mathematics of each kernel in numpy float64, one op a file: the judges of their numerics."""
