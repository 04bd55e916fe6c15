//! Headers, checksums, tuples and decisions as pure functions.
//!
//! This crate defines the wire formats (Ethernet, ARP, IP, TCP, UDP, SCTP, ICMP) and has no access to
//! maps, helpers or packet memory. Functions take byte arrays and return plain values or byte
//! arrays; the eBPF programs, the tests and the fuzz targets run the same code. Everything outside
//! [`ip`], [`arp`] and [`icmp`] is independent of the address family.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod affinity;
pub mod arp;
pub mod budget;
pub mod checksum;
pub mod crc32c;
pub mod error_limit;
pub mod eth;
mod headers;
pub mod icmp;
pub mod ip;
pub mod l4;
pub mod lifetime;
pub mod reset;
pub mod sample;
pub mod select;
pub mod siphash;
pub mod tcp_state;

pub use headers::{Headers, L4_LEN};
