"""Reading values of a program as polynomials over a few atoms, the form in which mathematics is compared."""
