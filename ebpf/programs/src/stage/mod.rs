//! The rooms of a packet's way. A stage reads and writes [`crate::packet::Packet`] and says `Err`
//! with a verdict where the way ends; the hooks string stages together.

pub mod antispoof;
pub mod conntrack;
pub mod forward;
pub mod fragment;
pub mod icmp;
pub mod masquerade;
pub mod nat;
pub mod parse;
pub mod place;
pub mod reject;
pub mod service;
