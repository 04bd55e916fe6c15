//! Selectors, peers and ports as text, in the notation of kubectl.

use std::fmt;

use sluice_abi::{PolicyDirection, proto};

use crate::model::{
    IpBlock, LabelSelector, Operator, PolicyPeer, PolicyPort, PortSpec, Protocol, Requirement,
};

/// The name of a direction in `policyTypes`.
pub const fn policy_type(direction: PolicyDirection) -> &'static str {
    match direction {
        PolicyDirection::Ingress => "Ingress",
        PolicyDirection::Egress => "Egress",
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.operator {
            Operator::In(values) => match &**values {
                [value] => write!(f, "{key}={value}"),
                values => write!(f, "{key} in ({})", values.join(",")),
            },
            Operator::NotIn(values) => match &**values {
                [value] => write!(f, "{key}!={value}"),
                values => write!(f, "{key} notin ({})", values.join(",")),
            },
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

impl fmt::Display for LabelSelector {
    /// The requirements, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements().iter().enumerate() {
            write!(f, "{}{requirement}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cidr)?;
        for (at, except) in self.except.iter().enumerate() {
            write!(f, "{}{except}", if at == 0 { " except " } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for PolicyPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyPeer::Pods { namespaces, pods } => {
                if pods.is_empty() {
                    f.write_str("all pods")?;
                } else {
                    write!(f, "{pods}")?;
                }
                match namespaces {
                    None => Ok(()),
                    Some(selector) if selector.is_empty() => f.write_str(" of all namespaces"),
                    Some(selector) => write!(f, " of namespaces with {selector}"),
                }
            }
            PolicyPeer::Block(block) => block.fmt(f),
            PolicyPeer::Nodes(nodes) if nodes.is_empty() => f.write_str("all nodes"),
            PolicyPeer::Nodes(nodes) => write!(f, "nodes with {nodes}"),
            PolicyPeer::Invalid(_) => f.write_str("nothing"),
        }
    }
}

impl fmt::Display for PolicyPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol;
        match &self.ports {
            PortSpec::All => write!(f, "all {protocol} ports"),
            PortSpec::Number(port) => write!(f, "{protocol} {port}"),
            PortSpec::Range(first, last) if first <= last => write!(f, "{protocol} {first}-{last}"),
            PortSpec::Name(name) => write!(f, "{protocol} {name}"),
            PortSpec::Range(..) | PortSpec::Invalid(_) => f.write_str("no port"),
        }
    }
}

/// The field with the peers of a rule, and the word before them in a sentence.
pub fn preposition(direction: PolicyDirection) -> &'static str {
    match direction {
        PolicyDirection::Egress => "to",
        PolicyDirection::Ingress => "from",
    }
}

/// A direction, as the field of its rules is called.
pub fn direction(direction: PolicyDirection) -> &'static str {
    match direction {
        PolicyDirection::Egress => "egress",
        PolicyDirection::Ingress => "ingress",
    }
}

/// A protocol and port of a packet.
pub fn target(protocol: u8, port: u16) -> String {
    match (Protocol::from_number(protocol), protocol) {
        (Some(protocol), _) => format!("{protocol} {port}"),
        (None, proto::ICMP | proto::ICMPV6) => "ICMP".to_owned(),
        (None, other) => format!("IP protocol {other}"),
    }
}

/// The ports of a rule.
pub fn ports(ports: &[PolicyPort]) -> String {
    if ports.is_empty() {
        return "all ports".to_owned();
    }
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Port;

    #[test]
    fn selectors_are_written_as_kubectl_does() {
        let values = |values: &[&str]| values.iter().map(|v| (*v).into()).collect();
        let all: LabelSelector = [
            ("a", Operator::In(values(&["x"]))),
            ("b", Operator::In(values(&["y", "x"]))),
            ("c", Operator::NotIn(values(&["x"]))),
            ("d", Operator::NotIn(values(&["x", "y"]))),
            ("e", Operator::Exists),
            ("f", Operator::DoesNotExist),
        ]
        .map(|(key, operator)| Requirement { key: key.into(), operator })
        .into_iter()
        .collect();
        assert_eq!(all.to_string(), "a=x,b in (x,y),c!=x,d notin (x,y),e,!f");
    }

    #[test]
    fn ports_have_protocol_and_number_or_name() {
        let port = |n: u16| Port::new(n).unwrap();
        let of = |spec| PolicyPort { protocol: Protocol::Udp, ports: spec }.to_string();
        assert_eq!(of(PortSpec::All), "all UDP ports");
        assert_eq!(of(PortSpec::Range(port(1), port(9))), "UDP 1-9");
        assert_eq!(of(PortSpec::Name("dns".into())), "UDP dns");
        assert_eq!(target(1, 0), "ICMP");
        assert_eq!(ports(&[]), "all ports");
    }
}
