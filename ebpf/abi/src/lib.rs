//! Layouts that the eBPF programs and user space share.
//!
//! Every map entry and ring-buffer record is defined here: the programs, the agent, the CNI binary
//! and the tests use the same structs and the same map names.
//!
//! Rules of this crate:
//! - `#[repr(C)]`, integers and byte arrays only, explicit padding (zerocopy's derives reject
//!   anything else at compile time), asserted sizes.
//! - Addresses are 16 bytes, IPv4 as v4-mapped (RFC 4291 section 2.5.5.2); ports are big endian
//!   ([`PortBe`]); all other integers are in host order.
//! - A change of a size, an offset or a meaning requires a new [`ABI_VERSION`], which is part of
//!   every pin path.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod addr;
mod client;
mod config;
mod conntrack;
mod device;
mod drop_reason;
mod event;
mod fragment;
pub mod map;
mod network;
pub mod pin;
mod pod;
mod policy;
pub mod program;
mod service;
mod socket;

pub use addr::{Addr, Family, PortBe, proto};
pub use client::{Affinity, AffinityKey, PodNetns, SourceRangeKey};
pub use config::{NodeConfig, PortRange, node_flags};
pub use conntrack::{
    Direction, FlowEntry, FlowKey, FlowKind, flow_flags, tcp_state, tick, tick_seconds, ticks,
};
pub use device::{Device, device_flags};
pub use drop_reason::{Counter, DropReason, EventLoss, Outcome};
pub use event::DropEvent;
pub use fragment::{FragmentKey, FragmentPorts};
pub use network::{Network, NetworkKey, network_kind};
pub use pod::{LocalPod, PodFlows, PodRef};
pub use policy::{
    PodPolicy, PolicyDirection, PolicyEnd, PolicyPeerKey, PolicyPortKey, PolicyPorts, hash,
    namespace_id, pod_policy_flags, ports_kind,
};
pub use service::{
    Backend, BackendRow, Frontend, FrontendKey, HostPortKey, ServicePort, SlotRange, WILDCARD_PORT,
    WILDCARD_PROTO, frontend_flags, node_port_addr,
};
pub use socket::{SocketOrigin, SocketOrigins, UdpSocket};

/// Version of every layout in this crate; part of the pin path. Two versions share a map only if its
/// layout is the same in both (`sluice_bpf::layout`).
pub const ABI_VERSION: u32 = if NEXT { THIS_VERSION + 1 } else { THIS_VERSION };

/// Whether this is another ABI, for tests of migration: its layouts and sizes differ.
pub(crate) const NEXT: bool = cfg!(feature = "abi-next");

/// [`ABI_VERSION`] without the feature `abi-next`.
const THIS_VERSION: u32 = 4;
