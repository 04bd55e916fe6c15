//! Policy verdicts for the pods of this node at the ends of a flow.
//!
//! Empty: there are no policies yet, and every packet is allowed. The stage is called after
//! translation and before each delivery, and returns the [`Judged`] that a delivery requires.

use sluice_abi::{Addr, FlowKey};

use crate::{flow::FlowState, verdict::Verdict};

/// Proof of a policy verdict that allows the delivery of a packet. Only this module constructs it.
pub struct Judged(());

/// Side of a pod at which a policy applies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The pod is the source.
    Egress,
    /// The pod is the destination.
    Ingress,
}

/// The pods of this node at the ends of a flow, by the addresses that the pods have.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    /// The source, if it is a pod of this node.
    pub source: Option<&'a Addr>,
    /// The destination after translation, if it is a pod of this node.
    pub destination: Option<&'a Addr>,
}

/// Judges a packet by the egress policies of its source and the ingress policies of its
/// destination. `tuple` is the tuple after destination translation.
#[inline(always)]
pub fn judge(ends: Ends<'_>, tuple: &FlowKey, state: FlowState) -> Result<Judged, Verdict> {
    if let Some(pod) = ends.source {
        allows(Direction::Egress, pod, tuple, state)?;
    }
    if let Some(pod) = ends.destination {
        allows(Direction::Ingress, pod, tuple, state)?;
    }
    Ok(Judged(()))
}

/// Judges a packet by the policies of one pod in one direction.
#[inline(always)]
fn allows(
    _direction: Direction,
    _pod: &Addr,
    _tuple: &FlowKey,
    _state: FlowState,
) -> Result<(), Verdict> {
    Ok(())
}
