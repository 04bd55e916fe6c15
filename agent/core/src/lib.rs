//! Model, index, compile and diff: everything that needs no I/O
