//! NetworkPolicies. What is not understood closes: a part of a rule matches nothing, a policy whose
//! pods are not known selects every pod of its namespace and admits nothing.
//!
//! The API server rejects nearly all of it; a manifest can have it, and an API server of a later version
//! fields that this one does not know.

use ipnet::IpNet;
use sluice_abi::PolicyDirection;
use sluice_core::model::{
    IpBlock, Kind, LabelSelector, NetworkPolicy, Object, ObjectName, Operator, PolicyPeer,
    PolicyPort, PolicyRule, Port, PortSpec, Protocol, Requirement, Uid, parse_cidr,
};

use super::api_types::{IntOrString, Obj, Part};
use super::{ConvertError, api_types, namespaced};

/// Rules of a direction; `None`: the policy does not isolate it.
type Rules = Option<Box<[PolicyRule]>>;

/// Converts a NetworkPolicy.
pub fn network_policy(o: api_types::NetworkPolicy) -> Result<Object, ConvertError> {
    let name = namespaced(Kind::NetworkPolicy, &o.metadata)?;
    let uid = o.metadata.uid.as_deref().and_then(Uid::from_api);
    let policy = match o.spec {
        Part(Ok(Obj(spec))) => policy_of(name, spec),
        Part(Err(problem)) => closed(name, &cannot_be_read("spec", &problem, EVERY_POD)),
    };
    Ok(Object::NetworkPolicy(NetworkPolicy { uid, ..policy }))
}

fn policy_of(name: ObjectName, spec: api_types::NetworkPolicySpec) -> NetworkPolicy {
    let (mut types, problem) = Types::of(&spec);
    let mut ingress = rules(spec.ingress, |rule| (rule.from, rule.ports));
    let egress = rules(spec.egress, |rule| (rule.to, rule.ports));
    if let Some(problem) = problem {
        types = Types { ingress: true, egress: true };
        ingress.push(nothing(&problem));
    }
    let selector = match spec.pod_selector {
        Part(Ok(Obj(selector))) => selector_of(selector),
        Part(Err(problem)) => Err(problem),
    };
    let rules = |isolates: bool, rules: Vec<PolicyRule>| isolates.then(|| rules.into());
    match selector {
        Ok(pod_selector) => {
            let unused = |isolates: bool, rules: &[PolicyRule]| match isolates {
                true => 0,
                false => rules.len(),
            };
            let mut unused_rules = [0; 2];
            unused_rules[PolicyDirection::Ingress as usize] = unused(types.ingress, &ingress);
            unused_rules[PolicyDirection::Egress as usize] = unused(types.egress, &egress);
            NetworkPolicy {
                name,
                pod_selector,
                ingress: rules(types.ingress, ingress),
                egress: rules(types.egress, egress),
                unused_rules,
                uid: None,
            }
        }
        Err(problem) => {
            let rules = |isolates| {
                rules(
                    isolates,
                    vec![nothing(&cannot_be_read(
                        "podSelector of the policy",
                        &problem,
                        EVERY_POD,
                    ))],
                )
            };
            let (ingress, egress) = (rules(types.ingress), rules(types.egress));
            everywhere(name, ingress, egress)
        }
    }
}

/// Directions that a policy isolates.
struct Types {
    ingress: bool,
    egress: bool,
}

impl Types {
    /// `policyTypes`, or the default: Ingress always, Egress with egress rules. With a problem, if a type
    /// is not known.
    fn of(spec: &api_types::NetworkPolicySpec) -> (Types, Option<String>) {
        let has_egress = spec.egress.0.as_ref().map_or(true, |rules| !rules.is_empty());
        let types = match &spec.policy_types.0 {
            Ok(types) if types.is_empty() => {
                return (Types { ingress: true, egress: has_egress }, None);
            }
            Ok(types) => types,
            Err(problem) => {
                let none = Types { ingress: true, egress: true };
                return (none, Some(cannot_be_read("policyTypes", problem, BOTH)));
            }
        };
        let has = |name: &str| types.iter().any(|t| t == name);
        let other = types.iter().find(|t| !matches!(t.as_str(), "Ingress" | "Egress"));
        let is_not_known = |t: &String| format!("{t:?} is not Ingress or Egress");
        let problem = other.map(|t| cannot_be_read("policyTypes", &is_not_known(t), BOTH));
        (Types { ingress: has("Ingress"), egress: has("Egress") }, problem)
    }
}

/// Consequences of parts that cannot be read.
const EVERY_POD: &str = "every pod of the namespace is selected";
const BOTH: &str = "both directions are isolated";

fn cannot_be_read(part: &str, problem: &str, consequence: &str) -> String {
    format!("{part} cannot be read ({problem}), {consequence}")
}

/// A policy that isolates every pod of its namespace and admits nothing.
fn closed(name: ObjectName, problem: &str) -> NetworkPolicy {
    let rules = || Some([nothing(problem)].into());
    everywhere(name, rules(), rules())
}

/// A policy that selects every pod of its namespace.
fn everywhere(name: ObjectName, ingress: Rules, egress: Rules) -> NetworkPolicy {
    NetworkPolicy { name, ingress, egress, ..NetworkPolicy::default() }
}

/// A rule that admits nothing.
fn nothing(problem: &str) -> PolicyRule {
    PolicyRule { peers: [PolicyPeer::Invalid(problem.into())].into(), ports: [].into() }
}

/// The rules of a direction. A rule that cannot be read as a whole admits nothing.
fn rules<T>(
    rules: Part<Vec<Part<Obj<T>>>>,
    parts: impl Fn(T) -> (Vec<Obj<api_types::Peer>>, Vec<Obj<api_types::PolicyPort>>),
) -> Vec<PolicyRule> {
    let rules = match rules {
        Part(Ok(rules)) => rules,
        Part(Err(problem)) => {
            return vec![nothing(&format!("the list cannot be read ({problem})"))];
        }
    };
    let peer = |Obj(peer)| {
        peer_of(peer).unwrap_or_else(|problem: String| PolicyPeer::Invalid(problem.into()))
    };
    let port = |Obj(port)| {
        port_of(port).unwrap_or_else(|problem| PolicyPort {
            protocol: Protocol::Tcp,
            ports: PortSpec::Invalid(problem.into()),
        })
    };
    let rule = |rule: Part<Obj<T>>| match rule {
        Part(Ok(Obj(rule))) => {
            let (peers, ports) = parts(rule);
            PolicyRule {
                peers: peers.into_iter().map(peer).collect(),
                ports: ports.into_iter().map(port).collect(),
            }
        }
        Part(Err(problem)) => nothing(&format!("the rule cannot be read ({problem})")),
    };
    rules.into_iter().map(rule).collect()
}

fn peer_of(peer: api_types::Peer) -> Result<PolicyPeer, String> {
    let selector = |selector: Option<Obj<api_types::LabelSelector>>| {
        selector.map(|Obj(selector)| selector_of(selector)).transpose()
    };
    let within = |field: &'static str| move |problem: String| format!("{field}: {problem}");
    match (peer.ip_block, peer.namespace_selector, peer.pod_selector) {
        (None, None, None) => Err(
            "has none of podSelector, namespaceSelector and ipBlock; for anyone, leave out the \
                 list"
                .to_owned(),
        ),
        (Some(Obj(block)), None, None) => block_of(&block).map(PolicyPeer::Block),
        (Some(_), ..) => {
            Err("ipBlock cannot be combined with selectors; write two peers".to_owned())
        }
        (None, namespaces, pods) => Ok(PolicyPeer::Pods {
            namespaces: selector(namespaces).map_err(within("namespaceSelector"))?,
            pods: selector(pods).map_err(within("podSelector"))?.unwrap_or_default(),
        }),
    }
}

fn block_of(block: &api_types::IpBlock) -> Result<IpBlock, String> {
    let parse = |field: &str, text: &str| {
        let problem = || format!("ipBlock.{field}: {text:?} is not a CIDR such as 10.0.0.0/8");
        parse_cidr(text).ok_or_else(problem)
    };
    let cidr = parse("cidr", &block.cidr)?;
    let except = |(n, text): (usize, &String)| {
        let field = format!("except[{n}]");
        let except = parse(&field, text)?;
        let is_subset = cidr.contains(&except) && cidr.prefix_len() < except.prefix_len();
        let problem = || format!("ipBlock.{field}: {text} is not a part of {cidr}");
        is_subset.then_some(except).ok_or_else(problem)
    };
    let except =
        block.except.iter().enumerate().map(except).collect::<Result<Box<[IpNet]>, _>>()?;
    Ok(IpBlock { cidr, except })
}

fn port_of(port: api_types::PolicyPort) -> Result<PolicyPort, String> {
    let protocol = Protocol::from_api(port.protocol.as_deref()).ok_or_else(|| {
        let protocol = port.protocol.unwrap_or_default();
        format!("protocol: {protocol:?} is not TCP, UDP or SCTP")
    })?;
    let number = |field: &str, number: i64| {
        Port::new(number).ok_or_else(|| format!("{field}: {number} is not between 1 and 65535"))
    };
    let ports = match (port.port, port.end_port) {
        (None, None) => PortSpec::All,
        (Some(IntOrString::Int(first)), None) => PortSpec::Number(number("port", first)?),
        (Some(IntOrString::Int(first)), Some(last)) => {
            PortSpec::Range(number("port", first)?, number("endPort", last)?)
        }
        (Some(IntOrString::String(name)), None) if is_port_name(&name) => {
            PortSpec::Name(name.into())
        }
        (Some(IntOrString::String(name)), None) => {
            return Err(format!(
                "port: {name:?} is not the name of a port; a number has no quotes"
            ));
        }
        (_, Some(_)) => return Err("endPort: requires a port that is a number".to_owned()),
    };
    Ok(PolicyPort { protocol, ports })
}

/// Whether a container port can have this name: a text of digits is a number in quotes.
pub(super) fn is_port_name(name: &str) -> bool {
    name.bytes().any(|b| b.is_ascii_alphabetic())
}

/// The requirements of a selector. One that cannot be read spoils the selector.
pub(super) fn selector_of(selector: api_types::LabelSelector) -> Result<LabelSelector, String> {
    let labels = selector.match_labels.into_iter().map(|(key, value)| {
        check_key("matchLabels", &key)?;
        check_value("matchLabels", &value)?;
        Ok(Requirement::equals(key, value))
    });
    let expressions =
        selector.match_expressions.into_iter().enumerate().map(|(n, Obj(expression))| {
            let path = format!("matchExpressions[{n}]");
            check_key(&path, &expression.key)?;
            let has_values = !expression.values.is_empty();
            expression.values.iter().try_for_each(|value| check_value(&path, value))?;
            let values = expression.values.into_iter().map(Into::into).collect();
            let operator = match (expression.operator.as_str(), has_values) {
                ("In", true) => Operator::In(values),
                ("NotIn", true) => Operator::NotIn(values),
                ("Exists", false) => Operator::Exists,
                ("DoesNotExist", false) => Operator::DoesNotExist,
                (operator @ ("In" | "NotIn"), false) => {
                    return Err(format!("{path}: operator {operator} requires values"));
                }
                (operator @ ("Exists" | "DoesNotExist"), true) => {
                    return Err(format!("{path}: operator {operator} has no values"));
                }
                (operator, _) => {
                    return Err(format!(
                        "{path}: operator {operator:?} is not In, NotIn, Exists or DoesNotExist"
                    ));
                }
            };
            Ok(Requirement { key: expression.key.into(), operator })
        });
    labels.chain(expressions).collect()
}

/// A key that no label can have would make NotIn and DoesNotExist match everything.
fn check_key(path: &str, key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let is_prefix = |prefix: &str| (1..=253).contains(&prefix.len());
    let valid = is_label_text(name) && !name.is_empty() && prefix.is_none_or(is_prefix);
    let problem = || format!("{path}: {key:?} cannot be the key of a label");
    valid.then_some(()).ok_or_else(problem)
}

fn check_value(path: &str, value: &str) -> Result<(), String> {
    let problem = || format!("{path}: {value:?} cannot be the value of a label");
    is_label_text(value).then_some(()).ok_or_else(problem)
}

/// Whether a label can have this text as its value: at most 63 letters, digits, `-`, `_` and `.`, a
/// letter or digit at both ends.
fn is_label_text(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && ends.into_iter().flatten().all(|b| b.is_ascii_alphanumeric())
}
