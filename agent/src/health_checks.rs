//! Servers of healthCheckNodePorts, with kube-proxy's response: load balancers of cloud providers send
//! to a node only if it has endpoints of the Service.
//!
//! kube-proxy's servers listen at the addresses that `--nodeport-addresses` selects
//! (pkg/proxy/healthcheck/service_health.go), and at all without the flag.
//!
//! The event loop opens listeners, so that it knows of failures; the thread of the other servers
//! accepts connections, also while the event loop is stuck, and then reports that it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::sockopt::{Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::kernel::{HealthCheck, HealthChecks, KernelError};
use crate::observe::{Answer, Health, JSON, serve_at};

type Check = Arc<Mutex<HealthCheck>>;

/// A listener to be served until `closed` ends.
#[derive(Debug)]
struct Opened {
    listener: TcpListener,
    check: Check,
    closed: oneshot::Receiver<()>,
}

/// The open ports.
#[derive(Debug)]
pub struct HealthCheckPorts {
    opened: mpsc::UnboundedSender<Opened>,
    ports: BTreeMap<u16, Port>,
}

#[derive(Debug)]
struct Port {
    check: Check,
    /// By address; a server ends when its sender is dropped.
    servers: BTreeMap<IpAddr, oneshot::Sender<()>>,
}

/// The ports, and the servers, which run on the thread of [`crate::observe::spawn`].
pub fn new(health: Arc<Health>) -> (HealthCheckPorts, impl Future<Output = ()> + Send + 'static) {
    let (opened, mut listeners) = mpsc::unbounded_channel::<Opened>();
    let servers = async move {
        while let Some(opened) = listeners.recv().await {
            let health = Arc::clone(&health);
            tokio::spawn(async move {
                let Opened { listener, check, closed } = opened;
                let listener = match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => {
                        tracing::warn!(%error, "healthCheckNodePort: listener not usable");
                        return;
                    }
                };
                let answer = move |_: &str| Some(answer(&lock(&check), health.healthy()));
                tokio::select! {
                    () = serve_at(listener, answer) => {}
                    _ = closed => {}
                }
            });
        }
    };
    (HealthCheckPorts { opened, ports: BTreeMap::new() }, servers)
}

impl HealthChecks for HealthCheckPorts {
    fn health_check_ports(&mut self) -> BTreeSet<u16> {
        self.ports.keys().copied().collect()
    }

    fn serve_health_check(
        &mut self,
        port: u16,
        check: &HealthCheck,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<(), KernelError> {
        let mut open = self.ports.remove(&port).unwrap_or_else(|| Port {
            check: Arc::new(Mutex::new(check.clone())),
            servers: BTreeMap::new(),
        });
        lock(&open.check).clone_from(check);
        open.servers.retain(|address, _| addresses.contains(address));
        let mut result = Ok(());
        for address in addresses {
            if open.servers.contains_key(address) {
                continue;
            }
            let at = SocketAddr::new(*address, port);
            match listener(at) {
                Ok(listener) => {
                    let (stop, closed) = oneshot::channel();
                    let check = Arc::clone(&open.check);
                    // Fails only when the agent stops.
                    let _ = self.opened.send(Opened { listener, check, closed });
                    open.servers.insert(*address, stop);
                }
                Err(e) if is_without_family(address, &e) => {}
                Err(e) => result = result.and(Err(KernelError::io(format!("open {at}"), e))),
            }
        }
        if !open.servers.is_empty() {
            self.ports.insert(port, open);
        }
        result
    }

    fn close_health_check(&mut self, port: u16) {
        self.ports.remove(&port);
    }
}

fn lock(check: &Mutex<HealthCheck>) -> std::sync::MutexGuard<'_, HealthCheck> {
    check.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listener of one family: the one at `[::]` leaves IPv4 to that at 0.0.0.0, whatever the sysctl
/// `bindv6only` says.
fn listener(at: SocketAddr) -> io::Result<TcpListener> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&socket, ReuseAddr, &true)?;
    if at.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(socket.into())
}

/// Whether every IPv6 address cannot be opened because the node has no IPv6.
fn is_without_family(address: &IpAddr, error: &io::Error) -> bool {
    *address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        && error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// kube-proxy's response: 200 if the Service has local endpoints and changes reach the programs. The
/// state of the Node does not matter.
fn answer(check: &HealthCheck, healthy: bool) -> Answer {
    let HealthCheck { service, local_endpoints } = check;
    let body = json!({
        "service": { "namespace": &*service.namespace, "name": &*service.name },
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": healthy,
    });
    let code = if healthy && *local_endpoints > 0 { 200 } else { 503 };
    Answer { weight: Some(*local_endpoints), ..Answer::new(code, JSON, body.to_string()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpStream};
    use std::time::{Duration, Instant};

    use sluice_core::ObjectName;

    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    fn check(local_endpoints: usize) -> HealthCheck {
        HealthCheck { service: ObjectName::new("shop", "web"), local_endpoints }
    }

    fn get(address: IpAddr, port: u16) -> io::Result<String> {
        let mut stream = TcpStream::connect((address, port))?;
        stream.set_read_timeout(Some(WAIT))?;
        write!(stream, "GET /any/path HTTP/1.1\r\nHost: node\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        Ok(response)
    }

    /// Every address of both families.
    fn any() -> BTreeSet<IpAddr> {
        [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()].into()
    }

    /// A port that nothing uses.
    fn free_port() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        listener.local_addr().unwrap().port()
    }

    #[test]
    fn contract_6_3_response_has_the_headers_and_the_json_of_kube_proxy() {
        let Answer { code, kind, body, weight } = answer(&check(2), true);
        assert_eq!((code, kind, weight), (200, JSON, Some(2)));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let service = json!({"namespace": "shop", "name": "web"});
        assert_eq!(
            body,
            json!({"service": service, "localEndpoints": 2, "serviceProxyHealthy": true})
        );
        assert_eq!(answer(&check(0), true).code, 503);
        assert_eq!(answer(&check(0), true).weight, Some(0));
        let unhealthy = answer(&check(2), false);
        assert_eq!(unhealthy.code, 503);
        assert!(unhealthy.body.contains(r#""serviceProxyHealthy":false"#), "{}", unhealthy.body);
    }

    /// Waits until nothing listens there.
    fn wait_closed(address: IpAddr, port: u16) {
        let deadline = Instant::now() + WAIT;
        while get(address, port).is_ok() {
            assert!(Instant::now() < deadline, "{address} is still open");
        }
    }

    #[test]
    fn contract_6_4_both_families_respond_until_the_port_is_closed() {
        let (mut ports, servers) = new(Arc::new(Health::default()));
        crate::observe::spawn(servers).unwrap();
        let port = free_port();
        ports.serve_health_check(port, &check(1), &any()).unwrap();
        assert_eq!(ports.health_check_ports(), BTreeSet::from([port]));
        for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let response = get(address, port).unwrap();
            assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
            for header in [
                "content-type: application/json\r\n",
                "x-content-type-options: nosniff\r\n",
                "x-load-balancing-endpoint-weight: 1\r\n",
            ] {
                assert!(response.contains(header), "{header} in {response}");
            }
        }
        ports.serve_health_check(port, &check(0), &any()).unwrap();
        assert!(get(Ipv4Addr::LOCALHOST.into(), port).unwrap().starts_with("HTTP/1.1 503 "));
        ports.close_health_check(port);
        assert_eq!(ports.health_check_ports(), BTreeSet::new());
        wait_closed(Ipv4Addr::LOCALHOST.into(), port);
    }

    #[test]
    fn servers_listen_at_their_addresses_only_and_follow_them() {
        let (mut ports, servers) = new(Arc::new(Health::default()));
        crate::observe::spawn(servers).unwrap();
        let port = free_port();
        let addresses: [IpAddr; 3] = [
            Ipv4Addr::new(127, 0, 0, 1).into(),
            Ipv4Addr::new(127, 0, 0, 2).into(),
            Ipv4Addr::new(127, 0, 0, 3).into(),
        ];
        let [one, two, three] = addresses;
        // All of IPv6, and single addresses of IPv4.
        let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        ports.serve_health_check(port, &check(1), &[v6, one, two].into()).unwrap();
        let open = || addresses.map(|address| get(address, port).is_ok());
        assert_eq!(open(), [true, true, false]);
        assert!(get(Ipv6Addr::LOCALHOST.into(), port).is_ok());
        // An address that stays keeps its listener: two of them would be an error.
        ports.serve_health_check(port, &check(1), &[v6, two, three].into()).unwrap();
        wait_closed(one, port);
        assert_eq!(open(), [false, true, true]);
        assert!(get(Ipv6Addr::LOCALHOST.into(), port).is_ok());
        ports.serve_health_check(port, &check(1), &BTreeSet::new()).unwrap();
        assert_eq!(ports.health_check_ports(), BTreeSet::new());
        wait_closed(two, port);
    }

    #[test]
    fn contract_6_4_port_in_use_by_another_process_is_an_error() {
        let (mut ports, _servers) = new(Arc::new(Health::default()));
        let v4: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let other = TcpListener::bind((v4, 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        let error = ports.serve_health_check(port, &check(1), &any()).unwrap_err();
        assert_eq!(error.to_string(), format!("open 0.0.0.0:{port}"));
        assert_eq!(ports.health_check_ports(), BTreeSet::from([port]), "IPv6 is served");
        let error = ports.serve_health_check(port, &check(1), &[v4].into()).unwrap_err();
        assert_eq!(error.to_string(), format!("open 0.0.0.0:{port}"));
        assert_eq!(ports.health_check_ports(), BTreeSet::new());

        let other = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        ports.serve_health_check(port, &check(1), &any()).unwrap_err();
        assert_eq!(ports.health_check_ports(), BTreeSet::new());
    }
}
