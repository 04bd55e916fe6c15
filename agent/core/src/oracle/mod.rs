//! The expected verdicts, computed straight from the objects.
//!
//! The oracle is slow and obvious: it reads every object for every packet, builds no table and
//! imports the model only. Tests compare it with the compiled tables and with the programs in the kernel.
//!
//! What it shares with the compiler is the model: a fault in `LabelSelector::matches`, `Operator::accepts` or
//! `PodPhase::is_over` is on both sides, and no comparison shows it. The tests of the contract (`cases/contract_policy.rs`)
//! state their results, as do the tests beside them.

mod network;
mod pod;
mod policy;
mod service;

pub use network::{DestinationClass, network, route};
pub use policy::{Cluster, NewFlow, Sandbox, Side, allows, side_allows};
pub use service::{Answer, Client, FrontendKind, Packet, Source, World, answer, usable_endpoints};
