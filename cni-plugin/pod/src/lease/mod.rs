//! Which pod has which address: a pure choice over the node's range, and a file that survives
//! whatever happens to the machine.

mod alloc;
mod boot_instant;
mod store;

pub use alloc::{AllocError, REUSE_DELAY_SECONDS, Released, State, Subnet, SubnetError};
pub use boot_instant::BootInstant;
pub use store::{Damage, Lease, LeaseKey, Loaded, LockedStore, Store, StoreError};
