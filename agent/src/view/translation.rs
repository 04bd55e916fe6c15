//! What translates the destination of packets of this node's pods, in the order of the programs: an address of a
//! Service, then a NodePort, then a hostPort, both at addresses of this node.

use std::net::IpAddr;

use ipnet::IpNet;
use sluice_abi::{
    Addr, FrontendKey, HostPortKey, PortBe, WILDCARD_PORT, WILDCARD_PROTO, network_kind,
    node_port_addr, proto,
};
use sluice_core::compile::network_key;
use sluice_core::table::{HostPorts, Table};
use sluice_core::tables::FrontendView;
use zerocopy::IntoBytes;

use crate::api::Translation;
use crate::api::respond::translation;
use crate::kernel::Maps;
use crate::state::State;

/// Protocols with ports, which can be translated.
const PROTOCOLS: [u8; 3] = [proto::TCP, proto::UDP, proto::SCTP];

/// Finds what translates an address, port and protocol. A hostPort that cannot be read is left out.
pub fn find(
    state: &State,
    kernel: &mut impl Maps,
    address: IpAddr,
    port: u16,
    protocol: u8,
) -> Option<Translation> {
    if !PROTOCOLS.contains(&protocol) {
        return None;
    }
    let tables = state.tables();
    let addr = Addr::from(address);
    let key = |addr| FrontendKey { addr, port: PortBe::new(port), proto: protocol, pad: 0 };
    if let Some(found) = tables.frontend(&key(addr)) {
        return Some(translation(&found));
    }
    let network = tables.networks().get(&network_key(IpNet::from(address)));
    let kind = network.map_or(network_kind::OUTSIDE, |network| network.kind);
    let any = node_port_addr(addr.family());
    if kind == network_kind::THIS_NODE
        && let Some(found) = tables.frontend(&key(any))
    {
        return Some(translation(&found));
    }
    if matches!(kind, network_kind::THIS_NODE | network_kind::THIS_NODE_WITHOUT_NODE_PORTS) {
        let keys: [HostPortKey; 2] = [key(any), key(addr)];
        for key in keys {
            let rows = kernel.read_keys(HostPorts::SPEC, key.as_bytes());
            if let Some((_, pod)) = rows.ok().and_then(|rows| rows.typed::<HostPorts>().next()) {
                let endpoints = vec![(pod.addr.into(), pod.port.get())];
                return Some(Translation { by: "a hostPort".to_owned(), endpoints, problem: None });
            }
        }
    }
    let wildcard = FrontendKey { addr, port: WILDCARD_PORT, proto: WILDCARD_PROTO, pad: 0 };
    // That of external addresses is for packets from other hosts.
    let of_cluster = |found: &FrontendView<'_>| !found.row.kind.is_external();
    tables.frontend(&wildcard).filter(of_cluster).map(|found| translation(&found))
}

#[cfg(test)]
mod tests {
    use sluice_abi::Backend;

    use super::*;
    use crate::harness::{Harness, host, lists};
    use crate::kernel::fake::FakeKernel;
    use crate::source::folder;

    /// The node has the address 172.18.0.2.
    const OBJECTS: &str = "
kind: List
items:
- {kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.244.1.0/24},
   status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}}
- {kind: Node, metadata: {name: n2}, spec: {podCIDR: 10.244.2.0/24},
   status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}}
- kind: Service
  metadata: {name: web, namespace: shop}
  spec:
    type: LoadBalancer
    clusterIPs: [10.96.0.10]
    externalIPs: [192.0.2.1]
    ports: [{port: 80, nodePort: 30080, protocol: TCP}]
  status: {loadBalancer: {ingress: [{ip: 192.0.2.2}]}}
- kind: Service
  metadata: {name: empty, namespace: shop}
  spec: {clusterIPs: [10.96.0.11], ports: [{port: 80, protocol: TCP}]}
- kind: EndpointSlice
  metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  ports: [{port: 8080, protocol: TCP, name: ''}]
  endpoints: [{addresses: [10.244.2.9], conditions: {ready: true}}]
";

    #[tokio::test(start_paused = true)]
    async fn every_address_of_a_service_and_host_ports_are_translated_as_in_the_programs() {
        let mut harness = Harness::with(&[], FakeKernel::new(host()));
        harness.send(lists(folder::parse(OBJECTS.as_bytes()).unwrap())).await;
        let to = |port| Backend {
            addr: Addr::v4([10, 244, 1, 7]),
            port: PortBe::new(port),
            ..Backend::default()
        };
        for (addr, port) in [([0; 4], 30081), ([172, 18, 0, 2], 30082), ([0; 4], 30080)] {
            let port = PortBe::new(port);
            let key = HostPortKey { addr: Addr::v4(addr), port, proto: proto::TCP, pad: 0 };
            harness.kernel().overwrite::<HostPorts>(key, to(53));
        }
        let mut found = |address: &str, port, protocol| {
            let (state, kernel) = harness.parts();
            find(state, kernel, address.parse().unwrap(), port, protocol)
        };
        let mut by = |address: &str, port| {
            let found = found(address, port, proto::TCP)?;
            assert!(found.endpoints.len() == 1 && found.problem.is_none(), "{found:?}");
            let (endpoint, number) = found.endpoints[0];
            Some(format!("{} {endpoint}:{number}", found.by))
        };
        for (address, port, expected) in [
            ("10.96.0.10", 80, Some("Service shop/web (ClusterIP) 10.244.2.9:8080")),
            ("192.0.2.1", 80, Some("Service shop/web (ExternalIP) 10.244.2.9:8080")),
            ("192.0.2.2", 80, Some("Service shop/web (LoadBalancer) 10.244.2.9:8080")),
            // A NodePort precedes a hostPort.
            ("172.18.0.2", 30080, Some("Service shop/web (NodePort) 10.244.2.9:8080")),
            ("172.18.0.2", 30081, Some("a hostPort 10.244.1.7:53")),
            ("172.18.0.2", 30082, Some("a hostPort 10.244.1.7:53")),
            // Another node translates what arrives there.
            ("172.18.0.3", 30080, None),
            ("172.18.0.2", 80, None),
            ("10.244.2.9", 8080, None),
        ] {
            assert_eq!(by(address, port).as_deref(), expected, "{address} {port}");
        }
        assert_eq!(found("10.96.0.10", 80, proto::ICMP), None);
        for (address, port, problem) in [
            ("10.96.0.10", 81, "does not have this port"),
            ("10.96.0.11", 80, "no endpoint is ready"),
        ] {
            let found = found(address, port, proto::TCP).unwrap();
            assert!(found.endpoints.is_empty(), "{found:?}");
            assert!(found.problem.unwrap().contains(problem), "{address}");
        }
    }
}
