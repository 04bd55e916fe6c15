//! The expected verdicts, computed straight from the objects.
//!
//! The oracle is slow and obvious: it reads every object for every packet, builds no table and
//! shares no code with what it judges. It imports the model only. Tests compare it with the
//! compiled tables and with the programs in the kernel.

mod network;
mod pod;
mod policy;
mod service;

pub use network::{DestinationClass, network, route};
pub use policy::{Cluster, NewFlow, Sandbox, Side, allows, side_allows};
pub use service::{Answer, Client, FrontendKind, Packet, Source, World, answer, usable_endpoints};
