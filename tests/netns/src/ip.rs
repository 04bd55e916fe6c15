//! iproute2 inside a namespace: how tests make links and look at what the kernel has.

use std::process::Output;

use serde_json::Value;

use crate::Namespaces;

fn run(place: &Namespaces, arguments: &str) -> Output {
    place
        .command("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|e| panic!("ip: {e}: install iproute2"))
}

/// `ip <arguments>`; a failure ends the test.
#[track_caller]
pub fn ip(place: &Namespaces, arguments: &str) -> String {
    let output = run(place, arguments);
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {says}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether `ip <arguments>` fails.
pub fn ip_fails(place: &Namespaces, arguments: &str) -> bool {
    !run(place, arguments).status.success()
}

/// `ip -j -d <arguments>` as JSON.
#[track_caller]
pub fn ip_json(place: &Namespaces, arguments: &str) -> Vec<Value> {
    let text = ip(place, &format!("-j -d {arguments}"));
    if text.trim().is_empty() {
        return Vec::new();
    }
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("ip -j {arguments}: {e}: {text}"))
}
