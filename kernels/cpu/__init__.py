"""Operations in C++ for CPUs, built on the machine they run on, each with a plain-torch twin of the same signature."""
