//! Address leases: a pure choice over the node's range, and one file per lease below `/run`.
//!
//! ```text
//! <stateDir>/lock                             one writer; its content names the holder
//! <stateDir>/allocation.json                  range, cursor, released addresses
//! <stateDir>/generations                      the last generation of each index
//! <stateDir>/leases/10.244.1.7+12+slc012...   one lease: JSON
//! ```
//! Nothing outlives a boot, so nothing is synced to a disk. Every file is replaced by a rename: a
//! crash of the process leaves the old content or the new one.

mod allocation;
mod boot_instant;
mod entry;
mod former;
mod generation;
mod in_use;
#[expect(clippy::module_inception, reason = "one lease")]
mod lease;
mod lock;
mod locked;
mod number;
mod store;
mod subnet;

pub use allocation::{AllocError, Allocation, INDEX_MAX, REUSE_DELAY_SECONDS, Released};
pub use boot_instant::{BootInstant, parse_uptime};
pub use entry::Entry;
pub use former::FormerState;
pub use in_use::InUse;
pub use lease::{Lease, LeaseKey};
pub use locked::{HeldLock, LockedStore, Opened, Request};
pub use number::{Draft, Number};
pub use store::{AttachmentLock, KnownLeases, Leases, Stamp, Store, StoreError};
pub use subnet::{Subnet, SubnetError};

#[cfg(any(test, feature = "fixtures"))]
pub mod fixture;
#[cfg(test)]
mod locked_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod store_tests;
