//! Servers of healthCheckNodePorts, with kube-proxy's response: load balancers of cloud providers send
//! to a node only if it has endpoints of the Service.
//!
//! The event loop opens listeners, so that it knows of failures; the thread of the other servers
//! accepts connections, also while the event loop is stuck, and then reports that it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

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
    // The servers end when these are dropped.
    _servers: Vec<oneshot::Sender<()>>,
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

    fn serve_health_check(&mut self, port: u16, check: &HealthCheck) -> Result<(), KernelError> {
        if let Some(open) = self.ports.get(&port) {
            lock(&open.check).clone_from(check);
            return Ok(());
        }
        let listeners =
            listen(port).map_err(|e| KernelError::io(format!("open port {port}"), e))?;
        let check = Arc::new(Mutex::new(check.clone()));
        let mut servers = Vec::new();
        for listener in listeners {
            let (stop, closed) = oneshot::channel();
            servers.push(stop);
            // Fails only when the agent stops.
            let _ = self.opened.send(Opened { listener, check: Arc::clone(&check), closed });
        }
        self.ports.insert(port, Port { check, _servers: servers });
        Ok(())
    }

    fn close_health_check(&mut self, port: u16) {
        self.ports.remove(&port);
    }
}

fn lock(check: &Mutex<HealthCheck>) -> std::sync::MutexGuard<'_, HealthCheck> {
    check.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listeners on all addresses: one for both families, or one per family where the sysctl `bindv6only`
/// is set, or IPv4 alone on a node without IPv6.
fn listen(port: u16) -> io::Result<Vec<TcpListener>> {
    let v6 = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
    // 0 is any port: that of the first listener.
    let port = v6.as_ref().ok().and_then(|l| l.local_addr().ok()).map_or(port, |a| a.port());
    let v4 = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
    let in_use = |e: &io::Error| e.kind() == io::ErrorKind::AddrInUse;
    let listeners = match (v6, v4) {
        (Ok(v6), Ok(v4)) => vec![v6, v4],
        // The first one has both families.
        (Ok(both), Err(e)) if in_use(&e) => vec![both],
        (Err(e), Ok(v4)) if !in_use(&e) => vec![v4],
        (Err(e), _) | (_, Err(e)) => return Err(e),
    };
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    Ok(listeners)
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
    use std::net::{IpAddr, TcpStream};
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

    #[test]
    fn contract_6_4_both_families_respond_until_the_port_is_closed() {
        let (mut ports, servers) = new(Arc::new(Health::default()));
        crate::observe::spawn(servers).unwrap();
        let port = free_port();
        ports.serve_health_check(port, &check(1)).unwrap();
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
        ports.serve_health_check(port, &check(0)).unwrap();
        assert!(get(Ipv4Addr::LOCALHOST.into(), port).unwrap().starts_with("HTTP/1.1 503 "));
        ports.close_health_check(port);
        assert_eq!(ports.health_check_ports(), BTreeSet::new());
        let deadline = Instant::now() + WAIT;
        while get(Ipv4Addr::LOCALHOST.into(), port).is_ok() {
            assert!(Instant::now() < deadline, "still open");
        }
    }

    #[test]
    fn contract_6_4_port_in_use_by_another_process_is_an_error() {
        let (mut ports, _servers) = new(Arc::new(Health::default()));
        for other in [
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap(),
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap(),
        ] {
            let port = other.local_addr().unwrap().port();
            let error = ports.serve_health_check(port, &check(1)).unwrap_err();
            assert_eq!(error.to_string(), format!("open port {port}"));
            assert_eq!(ports.health_check_ports(), BTreeSet::new());
        }
    }
}
