//! Everything that can trigger work, in one closed enum.
//!
//! Sources, watchers, the clock and the API send events through one channel to the loop, which
//! applies them to [`crate::state::State`]. This module is a leaf: it depends on the
//! objects of `sluice-core` and the calls of the API, and on no other part of the agent.

use sluice_core::Change;

use crate::api::Call;

/// A trigger of work.
#[derive(Debug)]
pub enum Event {
    /// API objects were added, changed or deleted.
    Objects(Change),
    /// Devices, addresses or routes of the node changed.
    HostNetwork,
    /// The CNI binary changed its leases.
    Leases,
    /// The installed CNI files changed.
    CniFiles,
    /// The periodic check of all concerns is due; it covers lost notifications and changes by
    /// other programs.
    Resync,
    /// A client of the API waits for a page of its response.
    Call(Call),
    /// SIGTERM or SIGINT. Programs, maps, routes and files stay in place.
    Stop,
}
