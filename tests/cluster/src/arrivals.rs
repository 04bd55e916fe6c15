//! Packets that arrive in a network namespace, counted by its kernel: before any socket, without loss.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use crate::{Node, docker};

const TABLE: &str = "sluice-test-arrivals";

/// Counters in the network namespace of a container, or of a pod on a node. They are removed when this is
/// dropped.
pub struct Arrivals {
    /// What is counted, for messages.
    pub place: String,
    container: String,
    /// Words before `nft`, in the container.
    enter: Vec<String>,
}

impl Arrivals {
    /// Counts TCP segments and UDP datagrams to each of `ports` that arrive in a container, whichever their
    /// source.
    #[track_caller]
    pub fn at_container(container: &str, ports: &[u16]) -> Arrivals {
        let arrivals = Arrivals {
            place: container.to_owned(),
            container: container.to_owned(),
            enter: Vec::new(),
        };
        arrivals.start(ports);
        arrivals
    }

    /// As [`Arrivals::at_container`], for the pod with this address on a node.
    #[track_caller]
    pub fn at_pod(node: &Node, address: &str, ports: &[u16]) -> Arrivals {
        let script = format!(
            "for n in /var/run/netns/*; do nsenter --net=$n ip -4 -o addr | grep -q ' {address}/' && echo $n; \
             done; true"
        );
        let path = docker(&["exec", &node.name, "sh", "-c", &script]).unwrap();
        assert_eq!(path.lines().count(), 1, "namespaces of {address} on {}: {path}", node.name);
        let arrivals = Arrivals {
            place: format!("pod {address}"),
            container: node.name.clone(),
            enter: vec!["nsenter".to_owned(), format!("--net={path}")],
        };
        arrivals.start(ports);
        arrivals
    }

    #[track_caller]
    fn start(&self, ports: &[u16]) {
        let (mut counters, mut rules) = (String::new(), String::new());
        for protocol in ["tcp", "udp"] {
            for port in ports {
                let _ = writeln!(counters, "counter {protocol}-{port} {{ }}");
                let _ = writeln!(rules, "{protocol} dport {port} counter name {protocol}-{port}");
            }
        }
        // Before every other rule of the namespace.
        let chain = "type filter hook prerouting priority -1000";
        let table =
            format!("table inet {TABLE} {{\n{counters}chain arrivals {{\n{chain}\n{rules}}}\n}}");
        self.nft(&[&table]).unwrap();
    }

    fn nft(&self, arguments: &[&str]) -> Result<String, String> {
        let enter = self.enter.iter().map(String::as_str);
        let words: Vec<&str> = ["exec", &self.container].into_iter().chain(enter).collect();
        docker(&[&words[..], &["nft"], arguments].concat())
    }

    /// Packets so far, by protocol and port: `tcp-7000`.
    #[track_caller]
    pub fn count(&self) -> BTreeMap<String, u64> {
        let text = self.nft(&["-j", "list", "counters", "table", "inet", TABLE]).unwrap();
        let list: Value = serde_json::from_str(&text).unwrap();
        let objects = list["nftables"].as_array().unwrap().iter();
        let counters =
            objects.map(|object| &object["counter"]).filter(|counter| !counter.is_null());
        counters
            .map(|counter| {
                let name = counter["name"].as_str().unwrap().to_owned();
                (name, counter["packets"].as_u64().unwrap())
            })
            .collect()
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        if let Err(e) = self.nft(&["delete", "table", "inet", TABLE]) {
            eprintln!("counters of {} not removed: {e}", self.place);
        }
    }
}
