//! The pure part of the agent: the model of the API objects, the rows that follow from them, and
//! the writes that bring the maps to these rows.
//!
//! ```text
//! Change --> index::Index --Dirty--> tables::Tables --Changed--> diff::RealizedState --> Plan
//!            objects, joins          compile::* per object       ids, slots              writes
//! ```
//!
//! Invariants:
//! - No I/O, no clock, no locks, no Kubernetes API types: the same input gives the same output.
//! - Compiled rows depend on the current objects only, never on the order of the changes. Only
//!   [`diff::RealizedState`] depends on the past: ids and slots, which are read back from the maps,
//!   so that a restart writes nothing.
//! - A plan that is interrupted after any row leaves every frontend intact.
//! - Maps are declared in [`table`]; no other module names a map.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may end by a panic")
)]

pub mod compile;
pub mod diff;
pub mod dump;
#[cfg(any(test, feature = "generate"))]
pub mod generate;
pub mod ids;
pub mod index;
pub mod model;
pub mod oracle;
pub mod policy;
pub mod quarantine;
pub mod select;
pub mod slots;
pub mod table;
pub mod tables;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod properties;
mod visits;

pub use diff::{CapacityError, Plan, ReadBack, RealizedState};
pub use index::{Changes, Dirty, Index, PolicyDirty};
pub use model::{Change, Kind, NodeContext, Object, ObjectName};
pub use table::{Rows, Table, TableKind, TableSpec, Write};
pub use tables::{Changed, Tables};
