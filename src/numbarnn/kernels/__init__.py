"""njit loops that know shapes and no cell."""
