//! State for tests of the API.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice_abi::{Addr, Backend, FrontendKey, PortBe, proto};
use sluice_core::Index;
use sluice_core::compile::{FrontendKind, FrontendRow, LocalPolicies, PortRow, ServicePortId};
use sluice_core::model::{ObjectName, Protocol, TrafficPolicy};
use sluice_core::policy::{Finding, LocalPod, Policies};
use sluice_core::tables::FrontendView;

use super::drops::{DropRow, DropsEnd};
use super::policy::{PolicyView, Translation};
use super::respond::{PAGE, StateView, translation};
use super::response::Status;

/// Rows of a page when each has one backend.
pub const ROWS: usize = PAGE / 2;

/// State with any number of frontends.
#[derive(Debug, Default)]
pub struct Fake {
    /// Frontends; a wildcard row has no Service port.
    pub frontends: BTreeMap<FrontendKey, (ObjectName, Option<PortRow>)>,
    /// Objects of the policies.
    pub index: Index,
    /// The policies, compiled for the local pods.
    pub policies: Policies,
    /// The pods of the node.
    pub local: Vec<LocalPod>,
    /// Problems of the policies.
    pub findings: BTreeSet<Finding>,
    /// End of a response of dropped packets.
    pub drops_end: DropsEnd,
}

impl StateView for Fake {
    fn status(&self) -> Status {
        Status { node: "worker".to_owned(), ready: true, ..Status::default() }
    }

    fn drops(&self, _: u64) -> Vec<DropRow> {
        Vec::new()
    }

    fn drops_end(&self) -> DropsEnd {
        self.drops_end.clone()
    }

    fn policies(&self) -> PolicyView<'_> {
        PolicyView {
            index: &self.index,
            compiled: &self.policies,
            local: &self.local,
            findings: &self.findings,
            node: self.index.this_node(),
        }
    }

    fn translate(&self, address: IpAddr, port: u16, proto: u8) -> Option<Translation> {
        let key = FrontendKey { addr: address.into(), port: PortBe::new(port), proto, pad: 0 };
        self.frontends().find(|(other, _)| **other == key).map(|(_, found)| translation(&found))
    }

    fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, FrontendView<'_>)> {
        self.frontends.iter().map(|(key, (service, port))| {
            let policy = match port {
                Some(PortRow { local: Some(_), .. }) => TrafficPolicy::Local,
                _ => TrafficPolicy::Cluster,
            };
            let kind = FrontendKind::ClusterIp;
            let row = FrontendRow { kind, policy, wildcard: port.is_none(), limited: false };
            (key, FrontendView { service, port: port.as_ref(), row })
        })
    }
}

impl Fake {
    /// `count` Services `NAMESPACE/s-N` with one backend each.
    pub fn with_services(namespace: &str, count: u32) -> Fake {
        let mut fake = Fake::default();
        for n in 0..count {
            fake.add(namespace, n, proto::TCP, 1);
        }
        fake
    }

    /// Adds the frontend of Service `NAMESPACE/s-N`, at address 10.N.N.N.
    pub fn add(&mut self, namespace: &str, n: u32, proto: u8, backends: u16) {
        self.insert(namespace, n, proto, Some(backends), None);
    }

    /// As [`Fake::add`], with traffic policy Local and no local endpoint.
    pub fn add_local(&mut self, namespace: &str, n: u32, proto: u8) {
        self.insert(namespace, n, proto, Some(1), Some(Box::default()));
    }

    /// Adds the wildcard row of the same address.
    pub fn add_wildcard(&mut self, namespace: &str, n: u32) {
        self.insert(namespace, n, 0, None, None);
    }

    fn insert(
        &mut self,
        namespace: &str,
        n: u32,
        proto: u8,
        backends: Option<u16>,
        local: Option<Box<[Backend]>>,
    ) {
        let [_, a, b, c] = n.to_be_bytes();
        let addr = Addr::v4([10, a, b, c]);
        let key = FrontendKey { addr, port: PortBe::new(80), proto, ..FrontendKey::default() };
        let backend = |i| Backend {
            addr: Addr::v4([192, a, b, c]),
            port: PortBe::new(8080 + i),
            ..Backend::default()
        };
        let service = ObjectName::new(namespace, format!("s-{n}"));
        let id = ServicePortId {
            service: service.clone(),
            name: "http".into(),
            protocol: Protocol::Tcp,
            family: addr.family(),
        };
        let port = backends.map(|count| PortRow {
            id,
            cluster: (0..count).map(backend).collect(),
            local,
            unselected: Box::default(),
            source_ranges: Box::default(),
            local_policies: LocalPolicies::default(),
            affinity_seconds: 0,
        });
        self.frontends.insert(key, (service, port));
    }
}
