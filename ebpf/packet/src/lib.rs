//! Headers, checksums, tuples and choices as pure functions
