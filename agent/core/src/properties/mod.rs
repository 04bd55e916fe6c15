//! Properties that hold for any objects and any order of changes.

mod compiled;
mod coverage;
mod growth;
pub mod kernel;
pub mod plans;
mod policy;
mod verdict;

use std::net::IpAddr;

use sluice_abi::proto;

use crate::generate::{self, THIS_NODE};
use crate::index::Index;
use crate::model::{Change, Kind, NodeContext, Object, parse_cidr};
use crate::oracle::Packet;

fn context() -> NodeContext {
    NodeContext {
        local_addresses: vec![IpAddr::from([172, 18, 0, 2])],
        service_cidrs: parse_cidr("10.96.0.0/16").into_iter().collect(),
        ..NodeContext::default()
    }
}

fn index_of(objects: &[Object]) -> Index {
    let mut index = Index::new(THIS_NODE);
    index.apply(Change::Replace(Kind::ServiceCidr, vec![]));
    objects.iter().for_each(|o| index.apply(Change::Apply(o.clone())));
    index
}

/// Packets to every address that is in use, from every client.
fn packets() -> impl Iterator<Item = Packet> {
    let mut destinations = generate::service_addresses();
    destinations.extend(generate::external_addresses());
    destinations.sort_unstable();
    destinations.dedup();
    destinations.into_iter().flat_map(|dst| {
        let ports = generate::PORTS.into_iter().chain(generate::NODE_PORTS).chain([1]);
        let mut targets: Vec<(u16, u8)> = ports
            .flat_map(|port| [proto::TCP, proto::UDP, proto::SCTP].map(|protocol| (port, protocol)))
            .collect();
        targets.push((0, proto::ICMP));
        let packet = |(port, protocol), (client, src)| Packet { client, src, dst, port, protocol };
        let clients = generate::clients(dst.is_ipv4());
        let packets = targets.into_iter().enumerate().flat_map(move |(n, target)| {
            // Every position of the client for each target; the sources alternate.
            let of = |at: usize| clients[at];
            [of(0), of(1 + n % 2), of(3 + n / 2 % 2)].map(|client| packet(target, client))
        });
        packets.collect::<Vec<_>>()
    })
}

/// The number of cases in the environment variable `CASES`, or another one.
pub fn cases(default: u32) -> u32 {
    std::env::var("CASES").map_or(default, |n| n.parse().expect("CASES is a number"))
}
