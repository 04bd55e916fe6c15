//! State for tests of the API.

use std::collections::BTreeMap;

use sluice_abi::{Addr, Backend, FrontendKey, PortBe, proto};
use sluice_core::compile::{FrontendRow, ServicePortId};
use sluice_core::model::{ObjectName, Protocol};

use super::respond::{PAGE, StateView};
use super::response::Status;

/// Rows of a page when each has one backend.
pub const ROWS: usize = PAGE / 2;

/// State with any number of frontends.
#[derive(Debug, Default)]
pub struct Fake {
    /// Frontends.
    pub frontends: BTreeMap<FrontendKey, FrontendRow>,
}

impl StateView for Fake {
    fn status(&self) -> Status {
        Status { node: "worker".to_owned(), ready: true, ..Status::default() }
    }

    fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, &FrontendRow)> {
        self.frontends.iter()
    }
}

impl Fake {
    /// `count` Services `NAMESPACE/s-N` with one backend each.
    pub fn with_services(namespace: &str, count: u32) -> Fake {
        let mut fake = Fake::default();
        for n in 0..count {
            fake.add(namespace, n, proto::TCP, 1, 0);
        }
        fake
    }

    /// Adds the frontend of Service `NAMESPACE/s-N`, at address 10.N.N.N.
    pub fn add(&mut self, namespace: &str, n: u32, proto: u8, backends: u16, flags: u32) {
        let [_, a, b, c] = n.to_be_bytes();
        let key = FrontendKey {
            addr: Addr::v4([10, a, b, c]),
            port: PortBe::new(80),
            proto,
            ..FrontendKey::default()
        };
        let backend = |i| Backend {
            addr: Addr::v4([192, a, b, c]),
            port: PortBe::new(8080 + i),
            ..Backend::default()
        };
        let row = FrontendRow {
            service: ServicePortId {
                service: ObjectName::new(namespace, format!("s-{n}")),
                port: Some(("http".into(), Protocol::Tcp)),
            },
            backends: (0..backends).map(backend).collect(),
            unselected: Box::default(),
            flags,
            affinity_seconds: 0,
        };
        self.frontends.insert(key, row);
    }
}
