//! Per-CPU memory of a program run.
//!
//! The stack has 512 bytes for all functions of a call chain, so that large values are kept in an
//! entry of a per-CPU map. [`hook::run`](crate::hook) takes it once; stages receive references to
//! the parts that they use, and global functions receive pointers to them.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use sluice_abi::{FlowEntry, FlowKey, FlowKind, PodRef};
use sluice_packet::{Headers, ip};

use crate::flow::{Destination, Flow};
use crate::kernel::NextHop;
use crate::packet::Packet;
use crate::stage::backend::Chosen;

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Size of the quote buffer: the longest IP header and layer 4 header that an ICMP error quotes,
/// rounded up to the bound of [`crate::frame::Skb::load_quote`].
pub const QUOTE_LEN: usize = 84;

/// The parts. No part is read before it is written in the same run.
#[repr(C)]
pub struct Scratch {
    /// Result of parsing.
    pub packet: Packet,
    /// The headers, to be stored after translation.
    pub headers: Headers,
    /// The flow of the packet.
    pub flow: Flow,
    /// A copy of the flow's entry.
    pub entry: FlowEntry,
    /// The destination, if it is a pod of this node.
    pub destination: Destination,
    /// The backend of a new Service flow.
    pub chosen: Chosen,
    /// The result of the route lookup.
    pub next_hop: NextHop,
    /// The packet that a received ICMP error quotes.
    pub quoted: Quoted,
    /// What the policy stage judges.
    pub policy_input: PolicyInput,
    /// The bytes that a generated ICMP error quotes.
    pub quote: [u8; QUOTE_LEN],
}

/// A packet quoted in an ICMP error.
#[repr(C)]
pub struct Quoted {
    /// Tuple of the quoted packet before translation.
    pub original: FlowKey,
    /// Its tuple as quoted.
    pub sent: FlowKey,
    /// Copy of the flow's entry.
    pub entry: FlowEntry,
    /// IP header without options.
    pub ip: ip::Header,
    /// The first bytes after the IP header.
    pub l4: [u8; 8],
}

/// What is judged: a flow in the direction of its first packet.
#[repr(C)]
pub struct PolicyInput {
    /// Source before translation, destination after it.
    pub tuple: FlowKey,
    /// The pod of this node that opens the flow.
    pub client: PodRef,
    /// The pod of this node that receives it.
    pub server: PodRef,
    /// `POLICY_EPOCH` before the tables are read.
    pub epoch: u32,
    /// 1 if a process of this node opens the flow, which reaches the pods of the node.
    pub is_of_node: u32,
}

impl Scratch {
    /// This CPU's memory.
    ///
    /// # Safety
    /// At most one call per program run. The kernel runs a tc or XDP program to its end before it
    /// runs another one on the same CPU.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the context only limits the lifetime")]
    pub unsafe fn take<C: EbpfContext>(_ctx: &C) -> Option<&mut Scratch> {
        let p = SCRATCH.get_ptr_mut(0)?;
        // SAFETY: the entry exists as long as the map. The kernel has zeroed it, which is valid for
        // all fields except the one that is set here. By the caller's promise this is the only
        // reference during the run, which the context's lifetime limits.
        unsafe {
            (&raw mut (*p).flow.kind).write(FlowKind::Direct);
            Some(&mut *p)
        }
    }
}
