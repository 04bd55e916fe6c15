//! Stages of the packet path. A stage takes what it needs as arguments, returns what it found, and
//! returns `Err` with a verdict if the path ends. The hooks call them in order.

pub mod antispoof;
pub mod backend;
pub mod class;
pub mod conntrack;
pub mod forward;
pub mod fragment;
pub mod icmp;
pub mod masquerade;
pub mod nat;
pub mod next_hop;
pub mod outline;
pub mod parse;
pub mod policy;
pub mod reject;
pub mod service;
