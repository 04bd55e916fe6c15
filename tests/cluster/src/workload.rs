//! Manifests that tests in Rust share.

use std::fmt::Write;

/// Kubernetes' test server and client; the image also has a shell, curl, nc, dig and python3.
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.56";

fn pod(name: &str, app: &str, node: Option<&str>, host_network: bool, command: &str) -> String {
    let node = node.map_or_else(String::new, |n| format!("\n  nodeName: {n}"));
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec:{node}
  hostNetwork: {host_network}
  terminationGracePeriodSeconds: 0
  tolerations: [{{operator: Exists}}]
  containers:
    - name: main
      image: {AGNHOST}
      imagePullPolicy: IfNotPresent
      command: {command}
---
"
    )
}

/// A pod for `kubectl exec`.
pub fn client(name: &str) -> String {
    pod(name, name, None, false, "[/agnhost, pause]")
}

/// A pod for `kubectl exec` on `node`, on the host network if `host_network`.
pub fn client_on(name: &str, node: &str, host_network: bool) -> String {
    pod(name, name, Some(node), host_network, "[/agnhost, pause]")
}

/// A pod of `app` on `node` that serves agnhost's netexec on TCP and UDP port 8080.
pub fn server_on(name: &str, app: &str, node: &str) -> String {
    pod(name, app, Some(node), false, "[/agnhost, netexec, --http-port=8080, --udp-port=8080]")
}

/// As [`server_on`], on the host network and another TCP port.
pub fn host_server_on(name: &str, app: &str, node: &str, port: u16) -> String {
    let command = format!("[/agnhost, netexec, --http-port={port}, --udp-port={port}]");
    pod(name, app, Some(node), true, &command)
}

/// A Deployment of netexec servers with a readiness probe.
pub fn replicas(app: &str, count: usize) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {app}}}
spec:
  replicas: {count}
  selector: {{matchLabels: {{app: {app}}}}}
  template:
    metadata: {{labels: {{app: {app}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector: {{matchLabels: {{app: {app}}}}}
      containers:
        - name: main
          image: {AGNHOST}
          imagePullPolicy: IfNotPresent
          command: [/agnhost, netexec, --http-port=8080, --udp-port=8080]
          ports:
            - {{name: web, containerPort: 8080}}
            - {{name: web-udp, containerPort: 8080, protocol: UDP}}
          readinessProbe: {{httpGet: {{path: /healthz, port: web}}, periodSeconds: 1}}
---
"
    )
}

/// A ClusterIP Service over `app=<app>`; `ports` are (name, protocol, port, targetPort).
pub fn service(name: &str, app: &str, ports: &[(&str, &str, u16, &str)]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {app}}}\n  ports:\n"
    );
    for (port_name, protocol, port, target) in ports {
        let _ = writeln!(
            text,
            "    - {{name: {port_name}, protocol: {protocol}, port: {port}, targetPort: {target}}}"
        );
    }
    text + "---\n"
}
