//! Health and metrics of the agent over HTTP.
//!
//! Input: [`Health`], which the event loop updates, the watches, and the kernel's counters. Output: `/healthz`,
//! `/livez` and `/readyz` on one address, `/metrics` and `/proxyMode` on another, both as
//! kube-proxy has them. Nothing here changes the state of the agent.

mod condition_metrics;
mod health;
mod http;
pub mod metrics;
mod policy_metrics;
mod proxy_metrics;
mod report_metrics;
mod timestamp;

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus_client::registry::Registry;

pub use self::health::{Health, Pending};
use self::http::serve;
pub use self::http::{Answer, serve_at};

/// Stack of the servers' thread in bytes.
const STACK: usize = 256 * 1024;
/// Content type of responses in JSON.
pub const JSON: &str = "application/json";

/// Runs `servers` on a thread of their own: they answer while the event loop is stuck.
///
/// # Errors
/// The thread cannot be started.
pub fn spawn(servers: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("observe".to_owned())
        .stack_size(STACK)
        .spawn(move || runtime.block_on(servers))?;
    Ok(())
}

/// Serves the health endpoints at `address`.
pub async fn serve_health(address: SocketAddr, health: Arc<Health>) {
    serve(address, move |path| health_answer(&health, path)).await;
}

/// Serves the metrics at `address`.
pub async fn serve_metrics(address: SocketAddr, registry: Registry) {
    serve(address, move |path| metrics_answer(&registry, path)).await;
}

fn health_answer(health: &Health, path: &str) -> Option<Answer> {
    let (code, body) = match path {
        "/healthz" => {
            let answer = health.healthz();
            health.metrics().proxy.healthz(answer.0);
            answer
        }
        "/livez" => {
            let answer = health.livez();
            health.metrics().proxy.livez(answer.0);
            answer
        }
        "/readyz" => health.readyz(),
        _ => return None,
    };
    Some(Answer::new(code, JSON, body))
}

fn metrics_answer(registry: &Registry, path: &str) -> Option<Answer> {
    match path {
        "/metrics" => Some(Answer::new(200, metrics::CONTENT_TYPE, metrics::encode(registry))),
        "/proxyMode" => Some(Answer::new(200, "text/plain", "ebpf".to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::flows::FlowStats;
    use crate::notices::CniStats;
    use crate::watches::Watches;

    /// The test does not await anything: its runtime is as stuck as an event loop in a system call.
    #[tokio::test]
    async fn servers_answer_while_the_event_loop_is_stuck() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        spawn(serve_health(address, Arc::new(Health::default()))).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut stream = loop {
            match TcpStream::connect(address) {
                Ok(stream) => break stream,
                Err(e) => assert!(Instant::now() < deadline, "{e}"),
            }
            std::thread::yield_now();
        };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET /livez HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    }

    #[test]
    fn contract_6_7_each_path_has_its_answer() {
        let health = Health::default();
        let code = |path| health_answer(&health, path).map(|answer| answer.code);
        assert_eq!((code("/healthz"), code("/livez")), (Some(200), Some(200)));
        assert_eq!((code("/readyz"), code("/")), (Some(503), None));

        let (watches, flows, cni) = (Watches::default(), FlowStats::default(), CniStats::default());
        let registry = metrics::registry(health.metrics(), &watches, &flows, &cni, Vec::new);
        let Answer { code, kind, body: text, .. } = metrics_answer(&registry, "/metrics").unwrap();
        assert_eq!((code, kind), (200, "text/plain; version=0.0.4"));
        assert!(text.contains("\nsluice_ready 0\n"), "{text}");
        assert_eq!(metrics_answer(&registry, "/proxyMode").unwrap().body, "ebpf");
        assert_eq!(metrics_answer(&registry, "/"), None);
    }
}
