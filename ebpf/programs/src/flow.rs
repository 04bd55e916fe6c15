//! The flow of a packet: its translation, and the reason for it.

use sluice_abi::{Backend, Direction, FlowKey, FlowKind};

/// Relation of a packet to the conntrack map.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// No entry, and none is needed.
    Untracked = 0,
    /// No entry yet; [`crate::stage::conntrack::open`] writes it.
    New = 1,
    /// An entry exists.
    Established = 2,
    /// An ICMP error that quotes a packet with an entry. Its stage has already translated it.
    Related = 3,
}

/// One direction of a flow.
#[repr(C)]
pub struct Flow {
    /// The tuple after translation.
    pub translated: FlowKey,
    /// Backend id, or 0.
    pub backend: u32,
    /// Kind.
    pub kind: FlowKind,
    /// Direction of the packet.
    pub direction: Direction,
    /// State.
    pub state: FlowState,
    /// Zero.
    pub pad: u8,
}

impl Flow {
    /// Starts with a packet without an entry. Stages that have a reason for an entry change it.
    #[inline(always)]
    pub fn reset(&mut self, tuple: &FlowKey) {
        *self = Flow {
            translated: *tuple,
            backend: 0,
            kind: FlowKind::Direct,
            direction: Direction::Forward,
            state: FlowState::Untracked,
            pad: 0,
        };
    }

    /// Translates the destination of a new flow to a backend.
    #[inline(always)]
    pub fn translate_to(&mut self, id: u32, backend: &Backend) {
        self.translated.dst = backend.addr;
        self.translated.dport = backend.port;
        self.backend = id;
        self.kind = FlowKind::Service;
        self.state = FlowState::New;
    }

    /// Requests source translation for a new flow.
    #[inline(always)]
    pub fn masquerade(&mut self) {
        self.kind = self.kind.masqueraded();
        self.state = FlowState::New;
    }

    /// Requests an entry for a new flow that is not translated.
    #[inline(always)]
    pub fn remember(&mut self, kind: FlowKind) {
        self.kind = kind;
        self.state = FlowState::New;
    }
}
