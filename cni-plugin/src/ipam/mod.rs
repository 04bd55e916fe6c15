//! Which pod has which address: a pure choice over the node's range, and a file that survives
//! whatever happens to the machine.

mod alloc;
mod clock;
mod store;

pub use alloc::{AllocError, REST_SECONDS, Released, State, Subnet, SubnetError};
pub use clock::Moment;
pub use store::{Damage, Lease, LeaseKey, Loaded, LockedStore, Store, StoreError};
