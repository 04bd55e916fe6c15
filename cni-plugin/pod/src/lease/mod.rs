//! Address leases: a pure choice over the node's range, and a file that survives a
//! crash of the process or the machine at any moment.

mod boot_instant;
mod choose;
mod state;
mod store;
mod subnet;

pub use boot_instant::{BootInstant, parse_uptime};
pub use choose::{AllocError, REUSE_DELAY_SECONDS};
pub use state::{Lease, LeaseKey, Released, State};
pub use store::{Damage, Loaded, LockedStore, Store, StoreError};
pub use subnet::{Subnet, SubnetError};

#[cfg(test)]
#[path = "model_tests.rs"]
mod model_tests;
