//! Random numbers of the kernel.

use std::fs::File;
use std::io::{self, Read};

/// Random bytes, not all zero.
///
/// # Errors
/// /dev/urandom cannot be read.
pub fn nonzero<const N: usize>() -> io::Result<[u8; N]> {
    let mut random = File::open("/dev/urandom")?;
    let mut bytes = [0; N];
    while bytes == [0; N] {
        random.read_exact(&mut bytes)?;
    }
    Ok(bytes)
}
