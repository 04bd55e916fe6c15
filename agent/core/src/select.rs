//! Which endpoints serve (KEP-1669, KEP-2086, KEP-2433, KEP-3015, KEP-4444).
//!
//! In: the traffic policy, where we are, what is known of each endpoint. Out: the positions of
//! those that serve, or how the client is turned away. Nothing else is read: neither
//! trafficDistribution nor annotations.

use crate::model::{Endpoint, TrafficPolicy};

/// Where we are.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// Name of this node.
    pub node: &'a str,
    /// Its zone, if it has one.
    pub zone: Option<&'a str>,
}

/// Result of [`select`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These serve: positions in the list that was given, ascending, never none.
    Use(Vec<usize>),
    /// There is no usable endpoint anywhere: the client is refused.
    Refuse,
    /// There are some, but policy Local allows none of them here: drop.
    Drop,
}

/// Whether an endpoint that is not ready may serve when no ready one is left.
pub fn is_fallback(e: &Endpoint) -> bool {
    e.serving && e.terminating
}

/// Chooses the endpoints of one Service port.
pub fn select(policy: TrafficPolicy, here: Here<'_>, endpoints: &[&Endpoint]) -> Selection {
    let all = |wanted: &dyn Fn(&Endpoint) -> bool| -> Option<Vec<usize>> {
        let found: Vec<usize> =
            endpoints.iter().enumerate().filter(|(_, e)| wanted(e)).map(|(i, _)| i).collect();
        (!found.is_empty()).then_some(found)
    };
    let local = |e: &Endpoint| e.node_name.as_deref() == Some(here.node);
    let chosen = match policy {
        TrafficPolicy::Cluster => hinted(here, endpoints)
            .or_else(|| all(&|e| e.ready))
            .or_else(|| all(&|e| is_fallback(e))),
        TrafficPolicy::Local => {
            all(&|e| e.ready && local(e)).or_else(|| all(&|e| is_fallback(e) && local(e)))
        }
    };
    match chosen {
        Some(chosen) => Selection::Use(chosen),
        None if endpoints.iter().any(|e| e.ready || is_fallback(e)) => Selection::Drop,
        None => Selection::Refuse,
    }
}

/// Ready endpoints that hints assign to us: by node, else by zone. One ready endpoint without a
/// hint of a kind voids that kind, and so does a kind that names us nowhere.
fn hinted(here: Here<'_>, endpoints: &[&Endpoint]) -> Option<Vec<usize>> {
    let by = |hints_of: fn(&Endpoint) -> &[String], us: &str| -> Option<Vec<usize>> {
        let mut ours = Vec::new();
        for (i, e) in endpoints.iter().enumerate().filter(|(_, e)| e.ready) {
            let hints = hints_of(e);
            if hints.is_empty() {
                return None;
            }
            if hints.iter().any(|h| h == us) {
                ours.push(i);
            }
        }
        (!ours.is_empty()).then_some(ours)
    };
    by(|e| &e.hints.nodes, here.node).or_else(|| by(|e| &e.hints.zones, here.zone?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Hints;

    /// One endpoint per word: state `R`eady, `T`erminating but serving, ready and terminating `B`,
    /// `U`nready, serving but neither ready nor terminating `S`; then `@node`, `#zone hint`, `!node
    /// hint`.
    fn endpoint(word: &str) -> Endpoint {
        let state = word.chars().next().unwrap_or('R');
        let mut e = Endpoint {
            address: [10, 0, 0, 1].into(),
            ready: matches!(state, 'R' | 'B'),
            serving: state != 'U',
            terminating: matches!(state, 'T' | 'B'),
            node_name: None,
            hints: Hints::default(),
        };
        for part in word.split_inclusive(['@', '#', '!']).collect::<Vec<_>>().windows(2) {
            let value = part[1].trim_end_matches(['@', '#', '!']).to_owned();
            match part[0].chars().last() {
                Some('@') => e.node_name = Some(value),
                Some('#') => e.hints.zones.push(value),
                _ => e.hints.nodes.push(value),
            }
        }
        e
    }

    #[test]
    fn table() {
        use Selection::{Drop, Refuse};
        let us = |positions: &[usize]| Selection::Use(positions.to_vec());
        let cluster = TrafficPolicy::Cluster;
        let local = TrafficPolicy::Local;
        for (name, policy, endpoints, expect) in [
            ("nothing at all", cluster, "", Refuse),
            ("ready ones", cluster, "R U R", us(&[0, 2])),
            ("ready wins over terminating", cluster, "T R", us(&[1])),
            ("ready and terminating is ready", cluster, "T B", us(&[1])),
            ("fall back to terminating", cluster, "U T T", us(&[1, 2])),
            ("serving alone is not enough", cluster, "S U", Refuse),
            ("unready never serves", cluster, "U", Refuse),
            ("zone hints", cluster, "R#z1 R#z2", us(&[0])),
            ("several zone hints", cluster, "R#z2#z1 R#z2", us(&[0])),
            ("one unhinted ready voids zones", cluster, "R#z1 R", us(&[0, 1])),
            ("an unhinted unready does not", cluster, "R#z1 R#z2 U T", us(&[0])),
            ("our zone not among them", cluster, "R#z2 R#z3", us(&[0, 1])),
            ("node hints win over zones", cluster, "R!n2#z1 R!n1#z2", us(&[1])),
            ("node hints elsewhere: zone", cluster, "R!n2#z1 R!n3#z2", us(&[0])),
            ("node hints incomplete: zone", cluster, "R!n1#z2 R#z1", us(&[1])),
            ("node hints only, elsewhere: all", cluster, "R!n2 R!n3", us(&[0, 1])),
            ("hints of terminating ignored", cluster, "T#z2 T#z3!n2", us(&[0, 1])),
            ("local ready", local, "R@n1 R@n2", us(&[0])),
            ("local ignores hints", local, "R@n1#z2!n2 R@n2#z1!n1", us(&[0])),
            ("local terminating", local, "T@n1 R@n2", us(&[0])),
            ("local ready over local terminating", local, "T@n1 R@n1", us(&[1])),
            ("only elsewhere: drop", local, "R@n2", Drop),
            ("only terminating elsewhere: drop", local, "T@n2 U@n1", Drop),
            ("no node is never local", local, "R", Drop),
            ("local with nothing", local, "U@n1 S@n1", Refuse),
        ] {
            let endpoints: Vec<Endpoint> = endpoints.split_whitespace().map(endpoint).collect();
            let refs: Vec<&Endpoint> = endpoints.iter().collect();
            let here = Here { node: "n1", zone: Some("z1") };
            assert_eq!(select(policy, here, &refs), expect, "{name}");
        }
    }

    #[test]
    fn a_node_without_zone_uses_all() {
        let endpoints = [endpoint("R#z1"), endpoint("R#z2")];
        let refs: Vec<&Endpoint> = endpoints.iter().collect();
        let here = Here { node: "n1", zone: None };
        assert_eq!(select(TrafficPolicy::Cluster, here, &refs), Selection::Use(vec![0, 1]));
    }
}
