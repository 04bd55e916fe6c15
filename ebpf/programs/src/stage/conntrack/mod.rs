//! Conntrack: finds, refreshes and opens flows (see `sluice_abi::FlowEntry`).
//!
//! ```text
//! find      tuple -> entry: FLOWS first; here
//! track     direction of the packet, check of its source, state of its flow
//! unusual   what is not in FLOWS: new flows, aliases of shadowed tuples, missing entries
//! confirm   moves an answered flow to FLOWS, and a closed one away from it
//! refresh   once per tick and flow: time, expiry, missing alias, destination class
//! displace  removes a flow that has the tuple of the node's own packets
//! open      a new flow: claims the tuple after translation, chooses source ports
//! ```

mod confirm;
mod displace;
mod find;
mod insert;
mod open;
mod refresh;
mod track;
mod unusual;
pub mod work;

pub use displace::displace;
pub use find::{Lookup, find};
pub use open::{open, open_flow};
pub use track::apply;
