//! The Sluice agent of a node and its command line.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod answers;
pub mod api;
pub mod cli;
mod cni_files;
mod config;
mod dataplane;
mod dir_watcher;
mod endpoints;
mod event_loop;
mod host;
mod node;
mod observe;
mod pod_mtu;
mod sockets;
pub mod source;
