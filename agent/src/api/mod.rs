//! API of the agent on a unix socket, used by the command line.
//!
//! ```text
//! client                         server                         owner of the state
//! {"version":1,"request":{}} ->  parse, check version
//!                                Call(request, after)      ->   respond(&view): at most one page
//! {"version":1,"agent":".."} <-
//! {"row":{..}}               <-  one line per row          <-   Page(rows, next)
//!                                Call(request, next) ...
//! {"end":{"count":2}}        <-  or {"error":{"code":"..","message":".."}}
//! ```
//! The last line of a response of drops also has `lostEvents` and `firstSequence`.
//!
//! The server evaluates the filters of a request. The state has one owner, the event loop, so the
//! server requests one page at a time, and the next page after the client has read the
//! previous one. A page examines at most [`respond::PAGE`] table entries: the loop is never blocked
//! for longer than that, no copy of a table is made, and a slow client costs one page of memory.
//! The alternative, an immutable snapshot of the tables behind an `Arc`, costs a copy on every
//! change. The price is consistency: rows are ordered by key, a row that exists during the whole
//! request is listed exactly once, and one that is added or removed meanwhile may or may not be
//! listed.
//!
//! The socket has mode 0600 and accepts peers with uid 0 only. Requests read state and never change
//! it. State of the kernel (pods, conntrack, counters) is not served here: the commands read the
//! pinned maps, which works with and without an agent.

mod client;
mod drops;
#[cfg(test)]
mod fake;
pub mod policy;
pub mod request;
pub mod respond;
mod response;
mod server;
#[cfg(test)]
mod tests;

pub use client::{ClientError, Rows, call};
pub use drops::{DropRow, DropsEnd, EndRow};
pub use policy::{
    Action, Direction, FlowEnds, FlowPeer, FlowPolicyRow, FlowQuery, FlowRow, JudgedEnd,
    JudgedFlow, NearRule, PeerRow, PodPolicyRow, PodQuery, PolicyFilter, PolicyRow, PolicyView,
    RuleRef, RuleRow, Tier, Translation, VerdictRow,
};
pub use request::{Request, ServiceFilter};
pub use respond::{Call, StateView};
pub use response::{Condition, DeviceRow, Header, Line, ServiceAction, ServiceRow, Status};
pub use server::serve;

/// Version of the protocol. A change that an older client or agent would misread increments it.
pub const VERSION: u32 = 1;
