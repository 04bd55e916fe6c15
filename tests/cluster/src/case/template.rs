//! Placeholders of manifests and steps.

use std::cell::OnceCell;

use crate::{Namespace, OutsideHost, nodes, workers};

/// Resolves placeholders for one case.
pub struct Template<'a> {
    namespace: &'a Namespace,
    outside: OnceCell<OutsideHost>,
}

impl<'a> Template<'a> {
    /// For a case in this namespace.
    pub fn new(namespace: &'a Namespace) -> Template<'a> {
        Template { namespace, outside: OnceCell::new() }
    }

    /// `text` with every placeholder replaced. An unknown placeholder fails the test.
    pub fn fill(&self, text: &str) -> String {
        replace(text, |placeholder| self.value(placeholder))
    }

    fn value(&self, placeholder: &str) -> String {
        let words: Vec<&str> = placeholder.split_whitespace().collect();
        let worker = |n: usize| workers().into_iter().nth(n).expect("two workers").name;
        match words.as_slice() {
            ["namespace"] => self.namespace.name.clone(),
            ["definition"] => definition(),
            ["worker0"] => worker(0),
            ["worker1"] => worker(1),
            ["control-plane"] => {
                nodes().into_iter().find(|node| node.control_plane).expect("a control plane").name
            }
            ["outside"] => self.outside.get_or_init(OutsideHost::start).address.clone(),
            ["outside-container"] => self.outside.get_or_init(OutsideHost::start).name().to_owned(),
            ["podip", pod] => self.namespace.pod_ip(pod),
            ["clusterip", service] => self.namespace.cluster_ip(service),
            ["nodeip", name] => {
                let name = if name.starts_with("worker") && name.len() == "worker0".len() {
                    self.value(name)
                } else {
                    (*name).to_owned()
                };
                let node = nodes().into_iter().find(|n| n.name == name);
                node.unwrap_or_else(|| panic!("no node {name}")).address
            }
            _ => panic!("unknown placeholder {{{{{placeholder}}}}}"),
        }
    }
}

/// Upstream's definition of ClusterNetworkPolicies, which xtask has fetched.
fn definition() -> String {
    let path = std::env::var("SLUICE_CLUSTER_NETWORK_POLICY_DEFINITION");
    path.expect("the path of the definition, which `cargo xtask test` sets")
}

fn replace(text: &str, value: impl Fn(&str) -> String) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (placeholder, after) = after.split_once("}}").expect("a placeholder ends with }}");
        filled.push_str(before);
        filled.push_str(&value(placeholder.trim()));
        rest = after;
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use super::replace;

    #[test]
    fn placeholders_are_replaced_in_place() {
        let filled = replace("a {{x}} b {{ y z }}{{x}}", |p| format!("<{p}>"));
        assert_eq!(filled, "a <x> b <y z><x>");
        assert_eq!(replace("{name: web}", |_| unreachable!()), "{name: web}");
    }
}
