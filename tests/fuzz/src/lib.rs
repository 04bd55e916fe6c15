//! Fuzz targets: one property for each parser of input from outside the process.
//!
//! ```text
//! corpus/<target>/*  --corpus--> bytes --> <target>::run(bytes)      replay, in the unit level
//!                                 |
//!                                 +--mutation--> run(bytes)          2,000 per target, unit level
//!                                 +--libFuzzer---> run(bytes)        cargo xtask fuzz
//! ```
//! A target panics if its property does not hold. The absence of panics is the minimum property:
//! most targets also compare with a second definition, or print what was parsed and parse it again.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target fails by panicking")]

pub mod corpus;
pub mod mutation;

mod address;
mod api_object;
mod api_request;
mod cni_stdin;
mod interface_alias;
mod lease_file;
mod manifest;
mod netlink_response;
mod notice;
mod packet_header;
mod proc_file;

/// A parser, and what holds for each of its inputs.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the target, of its file and of its folder below `corpus/`.
    pub name: &'static str,
    /// Panics if the property does not hold for an input.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// Every target.
pub const TARGETS: [Target; 11] = [
    target("address", address::run),
    target("api_object", api_object::run),
    target("api_request", api_request::run),
    target("cni_stdin", cni_stdin::run),
    target("interface_alias", interface_alias::run),
    target("lease_file", lease_file::run),
    target("manifest", manifest::run),
    target("netlink_response", netlink_response::run),
    target("notice", notice::run),
    target("packet_header", packet_header::run),
    target("proc_file", proc_file::run),
];

/// The target with this name.
pub fn find(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
