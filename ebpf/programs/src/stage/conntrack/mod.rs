//! Conntrack: finds, refreshes and opens flows (see `sluice_abi::FlowEntry`).
//!
//! ```text
//! find      tuple -> entry: FLOWS first; here          the source is checked before anything changes
//! unusual   what is not in FLOWS: new flows, aliases of shadowed tuples, missing entries
//! confirm   moves an answered flow to FLOWS, and a closed one away from it
//! refresh   once per tick and flow: time, expiry, missing alias, destination class
//! open      a new flow: claims the tuple after translation, chooses source ports
//! ```

mod confirm;
mod find;
mod insert;
mod open;
mod refresh;
mod unusual;
pub mod work;

pub use find::{Lookup, apply, find};
pub use open::{open, open_flow};
