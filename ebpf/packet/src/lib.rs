//! Headers, checksums, tuples and choices as pure functions.
//!
//! Knows the formats on the wire (IPv4, TCP, UDP, SCTP, ICMP) and nothing of maps, helpers or
//! packets in memory. Byte arrays come in, plain values and byte arrays go out; the eBPF programs,
//! the tests and fuzzers run the same code.
#![no_std]
#![forbid(unsafe_code)]

pub mod checksum;
pub mod crc32c;
pub mod eth;
pub mod icmp;
pub mod ipv4;
pub mod l4;
pub mod lifetime;
pub mod select;
pub mod tcp_state;
mod verdict;

pub use verdict::Verdict;
