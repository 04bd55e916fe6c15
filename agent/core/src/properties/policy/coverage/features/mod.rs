//! The features of policies, and what verdicts are without them.

mod cluster_network_policy;
mod network_policy;

use std::net::IpAddr;

pub use self::cluster_network_policy::CLUSTER_NETWORK_POLICY;
pub use self::network_policy::NETWORK_POLICY;
use super::remove::*;
use crate::model::{ContainerPort, Object, PodPhase, Protocol};

/// A feature: the least number of generated clusters in which verdicts differ without it (about half of those in
/// these samples), and how it is removed.
pub type Feature = (&'static str, usize, fn(&mut Vec<Object>));

/// What selectors and addresses are compared with.
pub const OTHERS: [Feature; 17] = [
    ("labels of pods", 30, |o| pods(o, |pod| pod.labels = Default::default())),
    ("labels of namespaces", 26, |o| {
        for object in o {
            if let Object::Namespace(namespace) = object {
                namespace.labels.clear();
            }
        }
    }),
    ("Namespaces that are known", 91, |o| o.retain(|o| !matches!(o, Object::Namespace(_)))),
    ("Nodes", 32, |o| o.retain(|o| !matches!(o, Object::Node(_)))),
    ("UIDs", 50, |o| pods(o, |pod| pod.uid = None)),
    ("phases", 27, |o| pods(o, |pod| pod.phase = PodPhase::Running)),
    ("hostNetwork", 30, |o| pods(o, |pod| pod.host_network = false)),
    ("Pods that terminate precede none", 7, |o| pods(o, |pod| pod.terminating = false)),
    ("Pods that are not known", 123, |o| o.retain(|o| !matches!(o, Object::Pod(_)))),
    ("Pods that terminate stay", 68, |o| {
        o.retain(|o| !matches!(o, Object::Pod(pod) if pod.terminating));
    }),
    ("address of several Pods", 20, |o| {
        let mut seen: Vec<IpAddr> = Vec::new();
        for object in o {
            if let Object::Pod(pod) = object {
                pod.ips = pod.ips.iter().filter(|ip| !seen.contains(ip)).collect();
                seen.extend(pod.ips.iter());
            }
        }
    }),
    ("second address of a Pod", 23, |o| pods(o, |pod| pod.ips = pod.ips.iter().take(1).collect())),
    ("container ports of UDP and SCTP", 9, |o| {
        pods(o, |pod| {
            pod.ports = pod.ports.iter().filter(|p| p.protocol == Protocol::Tcp).cloned().collect()
        });
    }),
    ("protocol of a container port", 22, |o| {
        pods(o, |pod| {
            let all = |port: &ContainerPort| {
                PROTOCOLS.map(|protocol| ContainerPort { protocol, ..port.clone() })
            };
            pod.ports = pod.ports.iter().flat_map(all).collect();
        });
    }),
    ("container ports with one name", 7, |o| {
        pods(o, |pod| {
            let mut seen = Vec::new();
            let mut ports = pod.ports.to_vec();
            ports.retain(|port| {
                let key = (port.protocol, port.name.clone());
                let is_first = !seen.contains(&key);
                seen.push(key);
                is_first
            });
            pod.ports = ports.into();
        });
    }),
    ("pod ranges", 27, |o| nodes(o, |node| node.pod_cidrs.clear())),
    ("external addresses of Nodes", 4, |o| nodes(o, |node| node.external_ips.clear())),
];
