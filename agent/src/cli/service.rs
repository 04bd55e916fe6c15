//! `sluice service`: ports of Services and their backends.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use sluice_abi::{Frontend, FrontendKey, ServicePort, SlotRange, frontend_flags};
use sluice_bpf::BpfError;
use sluice_core::dump;
use sluice_packet::select::{self, NoBackend};

use super::output::{Output, TableRow, print_rows};
use super::{maps, rows_of_agent};
use crate::api::{Request, ServiceAction, ServiceFilter, ServiceRow};
use crate::kernel::linux::maps::Maps;

/// Flags of `sluice service`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Show only Services whose `namespace/name` or address contains this text.
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
    /// Show only Services in this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Show only Services with this frontend or backend address.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
}

impl TableRow for ServiceRow {
    const HEADER: &'static [&'static str] =
        &["SERVICE", "PORT", "TYPE", "POLICY", "ADDRESS", "BACKENDS"];

    fn cells(&self) -> Vec<String> {
        let backends = match self.action {
            ServiceAction::Forward => {
                self.backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            }
            ServiceAction::Reject => "<none> (reject)".to_owned(),
            ServiceAction::Drop => "<none> (drop)".to_owned(),
        };
        let frontend = SocketAddr::new(self.address, self.port);
        vec![
            self.service.clone(),
            self.port_name.clone(),
            self.kind.clone(),
            self.policy.clone(),
            format!("{frontend}/{}", self.protocol),
            backends,
        ]
    }
}

/// Lists Service ports.
///
/// # Errors
/// Neither the agent nor the maps can be read, or a namespace is given without an agent.
pub fn run(socket: &Path, args: &Args, output: Output) -> anyhow::Result<()> {
    let filter = ServiceFilter {
        text: args.filter.clone(),
        namespace: args.namespace.clone(),
        address: args.address,
    };
    let rows = match rows_of_agent(socket, &Request::Services(filter.clone()))? {
        Some(rows) => rows,
        None => {
            anyhow::ensure!(
                filter.namespace.is_none(),
                "--namespace requires a running agent: the maps hold no names of Services"
            );
            rows_of_kernel(&maps()?, &filter)?
        }
    };
    print_rows(output, "Services", &rows)
}

fn rows_of_kernel(maps: &Maps, filter: &ServiceFilter) -> Result<Vec<ServiceRow>, BpfError> {
    let mut frontends = maps.frontends.entries()?;
    frontends.sort_by_key(|(key, _)| *key);
    let mut rows = Vec::new();
    for (key, frontend) in frontends {
        if frontend.flags & frontend_flags::WILDCARD != 0 {
            continue;
        }
        // A frontend whose Service port the agent replaces at this moment is left out.
        let Some(port) = maps.services.lookup(&frontend.service)? else { continue };
        let (range, action) = set(&frontend, &port);
        let row = kernel_row(&key, &frontend, action, backends(maps, range)?);
        if filter.matches(&row) {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The set of a frontend for clients on other hosts.
fn set(frontend: &Frontend, port: &ServicePort) -> (SlotRange, ServiceAction) {
    match select::slots(frontend, port, false) {
        Ok(range) => (range, ServiceAction::Forward),
        Err(NoBackend::NoLocalEndpoint) => (SlotRange::default(), ServiceAction::Drop),
        Err(_) => (SlotRange::default(), ServiceAction::Reject),
    }
}

/// Backends of a range of slots. A slot or backend that the agent replaces at this moment is left
/// out.
fn backends(maps: &Maps, range: SlotRange) -> Result<Vec<SocketAddr>, BpfError> {
    let mut backends = Vec::new();
    for slot in range.offset..range.offset.saturating_add(range.len) {
        if let Some(id) = maps.slots.lookup(&slot)? {
            let backend = maps.backends.lookup(&id)?;
            backends.extend(backend.map(|b| dump::socket_address(b.addr, b.port)));
        }
    }
    Ok(backends)
}

fn kernel_row(
    key: &FrontendKey,
    frontend: &Frontend,
    action: ServiceAction,
    backends: Vec<SocketAddr>,
) -> ServiceRow {
    let has = |flag| frontend.flags & flag != 0;
    let kind = match has(frontend_flags::EXTERNAL) {
        false => "ClusterIP",
        true if key.is_node_port() => "NodePort",
        true => "External",
    };
    let policy = if has(frontend_flags::LOCAL) { "Local" } else { "Cluster" };
    ServiceRow {
        service: "-".to_owned(),
        port_name: String::new(),
        kind: kind.to_owned(),
        policy: policy.to_owned(),
        address: key.addr.into(),
        port: key.port.get(),
        protocol: dump::protocol(key.proto),
        action,
        backends,
        source_ranges: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use sluice_abi::{PortBe, proto};

    use super::*;

    fn row(address: &str, action: ServiceAction, backends: &[&str]) -> ServiceRow {
        ServiceRow {
            service: "shop/web".to_owned(),
            port_name: "http".to_owned(),
            address: address.parse().unwrap(),
            port: 80,
            kind: "LoadBalancer".to_owned(),
            policy: "Local".to_owned(),
            protocol: "TCP".to_owned(),
            source_ranges: Vec::new(),
            action,
            backends: backends.iter().map(|b| b.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn cells_name_address_and_treatment() {
        let cells = |row: ServiceRow| row.cells().split_off(4).join("|");
        let kind = row("fd00::1", ServiceAction::Reject, &[]).cells()[2..4].join("|");
        assert_eq!(kind, "LoadBalancer|Local");
        assert_eq!(
            cells(row("fd00::1", ServiceAction::Forward, &["[fd01::1]:8080", "10.0.0.1:1"])),
            "[fd00::1]:80/TCP|[fd01::1]:8080 10.0.0.1:1"
        );
        let address = "10.96.0.1";
        assert_eq!(
            cells(row(address, ServiceAction::Reject, &[])),
            "10.96.0.1:80/TCP|<none> (reject)"
        );
        assert_eq!(cells(row(address, ServiceAction::Drop, &[])), "10.96.0.1:80/TCP|<none> (drop)");
    }

    #[test]
    fn kernel_row_has_no_name_but_the_same_fields() {
        let address: IpAddr = "10.96.0.1".parse().unwrap();
        let key = FrontendKey {
            addr: address.into(),
            port: PortBe::new(53),
            proto: proto::UDP,
            ..FrontendKey::default()
        };
        let backend = "10.96.0.1:5353".parse().unwrap();
        let frontend = Frontend::default();
        let row = kernel_row(&key, &frontend, ServiceAction::Forward, vec![backend]);
        assert_eq!(
            serde_json::to_value(&row).unwrap(),
            serde_json::json!({
                "service": "-", "portName": "", "type": "ClusterIP", "policy": "Cluster",
                "address": "10.96.0.1", "port": 53,
                "protocol": "UDP", "action": "forward", "backends": ["10.96.0.1:5353"],
            })
        );
    }

    #[test]
    fn kernel_row_has_the_kind_of_its_flags() {
        use frontend_flags::{EXTERNAL, LOCAL};
        for (address, flags, expect) in [
            ("10.96.0.1", 0, ("ClusterIP", "Cluster")),
            ("10.96.0.1", LOCAL, ("ClusterIP", "Local")),
            ("203.0.113.1", EXTERNAL | LOCAL, ("External", "Local")),
            ("0.0.0.0", EXTERNAL, ("NodePort", "Cluster")),
        ] {
            let addr = address.parse::<IpAddr>().unwrap().into();
            let key = FrontendKey { addr, ..FrontendKey::default() };
            let frontend = Frontend { service: 1, flags };
            let row = kernel_row(&key, &frontend, ServiceAction::Reject, vec![]);
            assert_eq!((&*row.kind, &*row.policy), expect);
        }
    }

    #[test]
    fn kernel_row_has_the_set_of_its_policy() {
        let range = |offset, len| SlotRange { offset, len };
        let port = |cluster, local| ServicePort { cluster, local, affinity_seconds: 0 };
        let (cluster, local) =
            (Frontend::default(), Frontend { service: 1, flags: frontend_flags::LOCAL });
        for (frontend, port, expect) in [
            (cluster, port(range(4, 2), range(0, 0)), (range(4, 2), ServiceAction::Forward)),
            (cluster, port(range(0, 0), range(0, 0)), (range(0, 0), ServiceAction::Reject)),
            (local, port(range(4, 2), range(9, 1)), (range(9, 1), ServiceAction::Forward)),
            (local, port(range(4, 2), range(0, 0)), (range(0, 0), ServiceAction::Drop)),
            (local, port(range(0, 0), range(0, 0)), (range(0, 0), ServiceAction::Reject)),
        ] {
            assert_eq!(set(&frontend, &port), expect);
        }
    }
}
