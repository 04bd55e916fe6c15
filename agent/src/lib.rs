//! The Sluice agent of a node and its command line.
//!
//! ```text
//! source --Event--> state --compile--> reconcile/* --operations--> kernel
//!                     ^                                              |
//!                     +------- result: condition, retry -------------+
//! api, observe: read the state, never change it
//! ```
//! One loop ([`event_loop`]) owns the state. [`reconcile`] has one file per concern, and [`kernel`]
//! is everything that touches the node, behind traits: tests run the loop on a kernel in memory.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod api;
mod backoff;
pub mod cli;
mod conditions;
mod config;
mod counters;
mod devices;
mod dir_watcher;
mod drops;
mod event;
mod event_loop;
mod findings;
mod first_lists;
mod flows;
#[cfg(test)]
mod harness;
mod health_checks;
mod host;
mod kernel;
mod lock;
mod notices;
mod observe;
mod paths;
mod reconcile;
mod run;
mod signals;
pub mod source;
mod source_ports;
mod state;
mod version;
mod view;
mod watches;

pub use kernel::linux::heap;
