//! Layouts that the eBPF programs and user space share.
//!
//! What lies in a map or a ring-buffer record is defined here and nowhere else: the programs, the
//! agent, the CNI binary and the tests read the same structs and the same map names.
//!
//! Rules of this crate:
//! - `#[repr(C)]`, integers and byte arrays only, padding spelled out (zerocopy's derives refuse
//!   anything else at compile time), sizes asserted.
//! - Addresses are 16 bytes, IPv4 as v4-mapped (RFC 4291 section 2.5.5.2); ports are big endian on
//!   the wire and in maps ([`PortBe`]); everything else is in the host's order.
//! - A changed size, offset or meaning raises [`ABI_VERSION`], which is part of every pin path.
#![no_std]
#![forbid(unsafe_code)]

mod addr;
mod config;
mod conntrack;
mod drop_reason;
mod event;
mod local_pod;
pub mod map;
mod network;
pub mod pin;
pub mod program;
mod service;
mod socket;

pub use addr::{Addr, Family, PortBe, proto};
pub use config::{NodeConfig, node_flags};
pub use conntrack::{FlowEntry, FlowKey, FragmentKey, FragmentPorts, flow_flags, tcp_state};
pub use drop_reason::{Counter, DropReason, Outcome};
pub use event::DropEvent;
pub use local_pod::LocalPod;
pub use network::{Network, NetworkKey, network_kind};
pub use service::{Backend, Frontend, FrontendKey, WILDCARD_PORT, WILDCARD_PROTO, frontend_flags};
pub use socket::{SocketOrigin, SocketOrigins};

/// Version of everything in this crate; part of the pin path, so that two versions never share a
/// map by accident.
pub const ABI_VERSION: u32 = 2;
