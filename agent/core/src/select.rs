//! Endpoint selection (KEP-1669, KEP-2086, KEP-2433, KEP-3015, KEP-4444).
//!
//! In: this node's name and zone, and the conditions and hints of each endpoint. Out: the positions
//! of the endpoints of each set.
//! `trafficDistribution` and annotations are not inputs: the control plane turns them into hints.

use crate::model::Endpoint;

/// Topology of this node.
#[derive(Clone, Copy, Debug)]
pub struct Locality<'a> {
    /// Name of this node.
    pub node: &'a str,
    /// Its zone, if it has one.
    pub zone: Option<&'a str>,
}

/// Whether an endpoint that is not ready may be used when no endpoint is ready: it is serving and
/// terminating.
pub fn is_fallback(e: &Endpoint) -> bool {
    e.serving && e.terminating
}

/// The endpoints of a Service port for traffic policy Cluster, ascending. Empty: no endpoint is
/// usable on any node.
pub fn cluster_set(locality: Locality<'_>, endpoints: &[&Endpoint]) -> Vec<usize> {
    let all = |wanted: &dyn Fn(&Endpoint) -> bool| matching(endpoints, wanted);
    hinted(locality, endpoints)
        .or_else(|| all(&|e| e.ready))
        .or_else(|| all(&|e| is_fallback(e)))
        .unwrap_or_default()
}

/// The endpoints of a Service port for traffic policy Local, ascending. Empty, while
/// [`cluster_set`] is not: endpoints are usable on other nodes only.
pub fn local_set(locality: Locality<'_>, endpoints: &[&Endpoint]) -> Vec<usize> {
    let local = |e: &Endpoint| e.node_name.as_deref() == Some(locality.node);
    let all = |wanted: &dyn Fn(&Endpoint) -> bool| matching(endpoints, wanted);
    all(&|e| e.ready && local(e))
        .or_else(|| all(&|e| is_fallback(e) && local(e)))
        .unwrap_or_default()
}

/// The positions of endpoints, if there are any.
fn matching(endpoints: &[&Endpoint], wanted: &dyn Fn(&Endpoint) -> bool) -> Option<Vec<usize>> {
    let found: Vec<usize> =
        endpoints.iter().enumerate().filter(|(_, e)| wanted(e)).map(|(i, _)| i).collect();
    (!found.is_empty()).then_some(found)
}

/// Ready endpoints with a hint for this node, else for its zone. Hints of one kind are ignored if a
/// ready endpoint has none of that kind, or if none of them names this node or zone.
fn hinted(locality: Locality<'_>, endpoints: &[&Endpoint]) -> Option<Vec<usize>> {
    let by = |hints_of: fn(&Endpoint) -> &[String], this: &str| -> Option<Vec<usize>> {
        let mut hinted = Vec::new();
        for (i, e) in endpoints.iter().enumerate().filter(|(_, e)| e.ready) {
            let hints = hints_of(e);
            if hints.is_empty() {
                return None;
            }
            if hints.iter().any(|h| h == this) {
                hinted.push(i);
            }
        }
        (!hinted.is_empty()).then_some(hinted)
    };
    by(Endpoint::node_hints, locality.node).or_else(|| by(Endpoint::zone_hints, locality.zone?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens to a connection.
    #[derive(Debug, PartialEq)]
    enum Verdict {
        Use(Vec<usize>),
        Drop,
        Reject,
    }

    fn verdict(local_policy: bool, endpoints: &[&Endpoint]) -> Verdict {
        let locality = Locality { node: "n1", zone: Some("z1") };
        let cluster = cluster_set(locality, endpoints);
        let local = local_set(locality, endpoints);
        match (cluster.is_empty(), local.is_empty()) {
            (true, true) => Verdict::Reject,
            (true, false) => panic!("{local:?} are usable"),
            (false, _) if !local_policy => Verdict::Use(cluster),
            (false, true) => Verdict::Drop,
            (false, false) => Verdict::Use(local),
        }
    }

    /// Parses one endpoint: a letter for its conditions, then any of `@node`, `#zone hint` and `!node
    /// hint`. `R`: ready and serving. `B`: also terminating. `T`: serving and terminating. `S`: only
    /// serving. `U`: none.
    fn endpoint(word: &str) -> Endpoint {
        let state = word.chars().next().unwrap_or('R');
        let mut e = Endpoint {
            address: [10, 0, 0, 1].into(),
            ready: matches!(state, 'R' | 'B'),
            serving: state != 'U',
            terminating: matches!(state, 'T' | 'B'),
            node_name: None,
            hints: None,
            target: None,
        };
        for part in word.split_inclusive(['@', '#', '!']).collect::<Vec<_>>().windows(2) {
            let value = part[1].trim_end_matches(['@', '#', '!']).to_owned();
            match part[0].chars().last() {
                Some('@') => e.node_name = Some(value.into()),
                Some('#') => e.hints.get_or_insert_default().zones.push(value),
                _ => e.hints.get_or_insert_default().nodes.push(value),
            }
        }
        e
    }

    #[test]
    fn selection_follows_conditions_policy_and_hints() {
        use Verdict::{Drop, Reject};
        let using = |positions: &[usize]| Verdict::Use(positions.to_vec());
        let (cluster, local) = (false, true);
        for (name, policy, endpoints, expect) in [
            ("no endpoint", cluster, "", Reject),
            ("ready endpoints are used", cluster, "R U R", using(&[0, 2])),
            ("ready precedes terminating", cluster, "T R", using(&[1])),
            ("ready and terminating is ready", cluster, "T B", using(&[1])),
            ("terminating if none is ready", cluster, "U T T", using(&[1, 2])),
            ("serving alone is not enough", cluster, "S U", Reject),
            ("unready is not used", cluster, "U", Reject),
            ("zone hints", cluster, "R#z1 R#z2", using(&[0])),
            ("several zone hints", cluster, "R#z2#z1 R#z2", using(&[0])),
            ("ready endpoint without hint voids zone hints", cluster, "R#z1 R", using(&[0, 1])),
            ("unready endpoint without hint does not", cluster, "R#z1 R#z2 U T", using(&[0])),
            ("no hint for this zone", cluster, "R#z2 R#z3", using(&[0, 1])),
            ("node hints precede zone hints", cluster, "R!n2#z1 R!n1#z2", using(&[1])),
            ("node hints for other nodes: zone hints", cluster, "R!n2#z1 R!n3#z2", using(&[0])),
            ("incomplete node hints: zone hints", cluster, "R!n1#z2 R#z1", using(&[1])),
            ("only node hints, for other nodes: all", cluster, "R!n2 R!n3", using(&[0, 1])),
            ("hints of terminating endpoints are ignored", cluster, "T#z2 T#z3!n2", using(&[0, 1])),
            ("local ready endpoints are used", local, "R@n1 R@n2", using(&[0])),
            ("policy Local ignores hints", local, "R@n1#z2!n2 R@n2#z1!n1", using(&[0])),
            ("local terminating if no local is ready", local, "T@n1 R@n2", using(&[0])),
            ("local ready precedes local terminating", local, "T@n1 R@n1", using(&[1])),
            ("only remote endpoints: drop", local, "R@n2", Drop),
            ("only remote terminating endpoints: drop", local, "T@n2 U@n1", Drop),
            ("endpoint without node is not local", local, "R", Drop),
            ("policy Local without usable endpoint", local, "U@n1 S@n1", Reject),
        ] {
            let endpoints: Vec<Endpoint> = endpoints.split_whitespace().map(endpoint).collect();
            let refs: Vec<&Endpoint> = endpoints.iter().collect();
            assert_eq!(verdict(policy, &refs), expect, "{name}");
        }
    }

    #[test]
    fn node_without_zone_ignores_zone_hints() {
        let endpoints = [endpoint("R#z1"), endpoint("R#z2")];
        let refs: Vec<&Endpoint> = endpoints.iter().collect();
        let locality = Locality { node: "n1", zone: None };
        assert_eq!(cluster_set(locality, &refs), [0, 1]);
    }
}
