//! Everything that needs no I/O: which objects there are, what they mean, and what has to be
//! written to the kernel.
//!
//! ```text
//! Change --> index::Index --dirty--> tables::Tables --changed--> diff::Programmed --> Plan
//!            objects, joins          compile::* per object       ids, slots           ops in order
//! ```
//!
//! Invariants:
//! - No I/O, no clock, no locks, no Kubernetes API types: the same input gives the same output.
//! - What is compiled depends on the current objects only, never on the order in which they came.
//!   The single thing with a history is [`diff::Programmed`]: ids and slots, which are seeded from
//!   what the kernel holds, so that a restart writes nothing.
//! - A plan cut short at any op leaves every frontend whole.
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
pub mod select;
pub mod slots;
pub mod tables;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod scenarios;

pub use diff::{Op, Plan, Programmed, ReadBack};
pub use index::{Dirty, Index};
pub use model::{Change, Kind, Object, ObjectName};
pub use tables::{Changed, Surroundings, Tables};
