//! The CNI specification and its verbs.
//!
//! ```text
//! stdin, environment -> spec -> verb -> sluice-pod (lease, wiring)
//! ```

pub mod spec;
pub mod verb;
