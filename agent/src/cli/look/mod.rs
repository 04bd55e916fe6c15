//! The commands that only look: one file a subject.

mod conntrack;
mod counters;
mod endpoint;
mod service;
mod status;

pub use conntrack::{ConntrackArgs, conntrack};
pub use counters::counters;
pub use endpoint::{EndpointArgs, endpoints};
pub use service::{ServiceArgs, services};
pub use status::status;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use sluice_abi::{Addr, PortBe, proto};

use crate::control::{Request, ask};
use crate::dataplane::maps::Maps;

pub(super) fn maps() -> anyhow::Result<Maps> {
    Maps::open().context("read the kernel's tables: was the dataplane ever loaded here?")
}

pub(super) fn ask_agent<T: serde::de::DeserializeOwned>(
    socket: &Path,
    request: &Request,
) -> Option<T> {
    let answer = ask(socket, request).ok()?;
    serde_json::from_str(&answer).ok()
}

/// `address:port`, IPv6 in brackets.
fn end(address: Addr, port: PortBe) -> String {
    SocketAddr::new(address.into(), port.get()).to_string()
}

fn protocol(number: u8) -> String {
    match number {
        proto::TCP => "TCP".to_owned(),
        proto::UDP => "UDP".to_owned(),
        proto::SCTP => "SCTP".to_owned(),
        proto::ICMP => "ICMP".to_owned(),
        proto::ICMPV6 => "ICMPv6".to_owned(),
        n => n.to_string(),
    }
}
