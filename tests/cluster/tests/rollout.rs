//! Requests during a rolling update.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation ends the test")]

use cluster_tests::{Load, Namespace, client, replicas, rollout, service};

/// A new Pod before each removal, and a preStop hook longer than endpoint changes take.
const PATCH: &str = r#"{"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
    "template": {"spec": {"terminationGracePeriodSeconds": 20, "containers": [
      {"name": "main", "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}}}]}}}}"#;

#[test]
fn rolling_update_loses_no_request() {
    let ns = Namespace::new("rolling");
    let web = service("web", "web", &[("web", "TCP", 80, "8080")]);
    ns.apply(&(client("client") + &replicas("web", 2) + &web));
    ns.kubectl(&["patch", "deployment", "web", "-p", PATCH]);
    rollout(&ns.name, "deployment/web");
    ns.ready("client", 1);
    let url = format!("http://{}/hostname", ns.cluster_ip("web"));
    let load = Load::start(&ns, "client", &url);
    ns.kubectl(&["rollout", "restart", "deployment/web"]);
    rollout(&ns.name, "deployment/web");
    load.expect_no_failure();
}
