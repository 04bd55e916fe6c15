//! Health and metrics of the agent over HTTP.
//!
//! Input: [`Health`], which the event loop updates, and the kernel's counters. Output: `/healthz`,
//! `/livez` and `/readyz` on one address, `/metrics` and `/proxyMode` on another, both as
//! kube-proxy has them. Nothing here changes the state of the agent.

mod health;
mod http;
mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus_client::registry::Registry;

pub use self::health::{Health, Pending};
use self::http::{Answer, serve};
use crate::kernel::Count;

const JSON: &str = "application/json";

/// Serves the health endpoints at `address`.
pub async fn serve_health(address: SocketAddr, health: Arc<Health>) {
    serve(address, move |path| health_answer(&health, path)).await;
}

/// Serves the metrics at `address`; `counts` reads the kernel's counters at each scrape.
pub async fn serve_metrics(
    address: SocketAddr,
    health: Arc<Health>,
    counts: impl Fn() -> Vec<Count> + Send + Sync + 'static,
) {
    let registry = metrics::registry(health.metrics(), counts);
    serve(address, move |path| metrics_answer(&registry, path)).await;
}

fn health_answer(health: &Health, path: &str) -> Option<Answer> {
    let (code, body) = match path {
        "/healthz" | "/livez" => health.healthz(),
        "/readyz" => health.readyz(),
        _ => return None,
    };
    Some((code, JSON, body))
}

fn metrics_answer(registry: &Registry, path: &str) -> Option<Answer> {
    match path {
        "/metrics" => Some((200, metrics::CONTENT_TYPE, metrics::encode(registry))),
        "/proxyMode" => Some((200, "text/plain", "ebpf".to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_its_answer() {
        let health = Health::default();
        let code = |path| health_answer(&health, path).map(|(code, ..)| code);
        assert_eq!((code("/healthz"), code("/livez")), (Some(200), Some(200)));
        assert_eq!((code("/readyz"), code("/")), (Some(503), None));

        let registry = metrics::registry(health.metrics(), Vec::new);
        let (code, kind, text) = metrics_answer(&registry, "/metrics").unwrap();
        assert_eq!((code, kind), (200, "text/plain; version=0.0.4"));
        assert!(text.contains("\nsluice_ready 0\n"), "{text}");
        assert_eq!(metrics_answer(&registry, "/proxyMode").unwrap().2, "ebpf");
        assert_eq!(metrics_answer(&registry, "/"), None);
    }
}
