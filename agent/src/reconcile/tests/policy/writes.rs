//! Every change between several states, row by row, with and without failures: what is forbidden before
//! and after never passes in between, and no flow keeps a verdict that is not the last one.

use std::collections::BTreeSet;
use std::time::Duration;

use sluice_abi::PolicyDirection;
use sluice_core::policy::Judgement;

use super::maps::{Probe, View};
use super::{COMPARISON, DB, OBJECTS, node, objects, of_policies, running};
use crate::conditions::Concern;
use crate::event::Event;
use crate::harness::{Harness, lists};

/// The tables of the active version can be others, and its epoch may be the same.
#[tokio::test(start_paused = true)]
async fn agent_that_takes_over_judges_all_flows_again() {
    let mut harness = running(&[OBJECTS, DB]).await;
    let judged = View::of(&harness.kernel().maps).epoch;
    let mut harness = harness.restart();
    harness.take_over_later();
    let log = harness.send(lists(objects(&[OBJECTS, DB]))).await;
    assert_eq!(of_policies(&log), ["put POD_POLICY 1", "put POLICY_EPOCH 1"]);
    assert!(View::of(&harness.kernel().maps).judges_again(7, judged));
    // Once.
    let log = harness.run_for(COMPARISON).await;
    assert_eq!(of_policies(&log), Vec::<&str>::new());
}

/// Long enough for retries.
const RETRIES: Duration = Duration::from_secs(20);

/// `far` and `pod-8` have other labels.
const RELABELLED: &str = "
- {kind: Pod, metadata: {name: pod-8, namespace: shop, labels: {app: db}}, spec: {nodeName: n1},
   status: {podIP: 10.244.1.8}}
- {kind: Pod, metadata: {name: far, namespace: lab, labels: {app: batch}}, spec: {nodeName: n2},
   status: {podIP: 10.244.2.9}}
";

/// Rules with other selectors, port sets, blocks; both directions.
const WIDE: &str = "
- kind: NetworkPolicy
  metadata: {name: db, namespace: shop}
  spec:
    podSelector: {}
    policyTypes: [Ingress, Egress]
    ingress:
    - from:
      - {namespaceSelector: {matchLabels: {team: lab}}}
      - {ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.8/29]}}
      ports: [{port: 5432}, {port: 80}, {protocol: UDP, port: 53}]
    - from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]
    egress:
    - to: [{podSelector: {}}]
      ports: [{port: 443, endPort: 6000}, {protocol: SCTP}]
";

const CLOSED: &str = "
- kind: NetworkPolicy
  metadata: {name: all, namespace: shop}
  spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

/// Denied peers of db: one list has a part of the other.
const LAB: &str = "
- kind: ClusterNetworkPolicy
  metadata: {name: guard}
  spec:
    tier: Admin
    priority: 1
    subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}
    ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: lab}}}]}]
";

const LAB_AND_WEB: &str = "
- kind: ClusterNetworkPolicy
  metadata: {name: guard}
  spec:
    tier: Admin
    priority: 1
    subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}
    ingress:
    - action: Deny
      from:
      - namespaces: {matchLabels: {team: lab}}
      - pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}
";

/// Objects of a state.
#[derive(Clone, Copy, Debug)]
struct State {
    relabelled: bool,
    policies: &'static [&'static str],
}

const STATES: [State; 9] = [
    State { relabelled: false, policies: &[] },
    State { relabelled: false, policies: &[DB] },
    State { relabelled: true, policies: &[DB] },
    State { relabelled: false, policies: &[WIDE] },
    State { relabelled: true, policies: &[WIDE] },
    State { relabelled: false, policies: &[DB, CLOSED] },
    State { relabelled: false, policies: &[LAB] },
    State { relabelled: false, policies: &[LAB_AND_WEB] },
    State { relabelled: true, policies: &[LAB_AND_WEB, DB] },
];

impl State {
    fn events(self) -> Vec<Event> {
        let pods = self.relabelled.then_some(RELABELLED);
        let items = [OBJECTS].into_iter().chain(pods).chain(self.policies.iter().copied());
        lists(objects(&items.collect::<Vec<_>>()))
    }
}

/// Verdicts before and after a change.
async fn verdicts(from: State, to: State) -> [Vec<Judgement>; 2] {
    let mut verdicts: [Vec<Judgement>; 2] = Default::default();
    for (verdicts, state) in verdicts.iter_mut().zip([from, to]) {
        let mut harness = Harness::with(&[], node(&[7, 8]));
        harness.send(state.events()).await;
        let view = View::of(&harness.kernel().maps);
        *verdicts = view.verdicts().into_iter().map(|(_, verdict)| verdict).collect();
    }
    verdicts
}

/// How the agent gets over a write that fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Retry,
    /// It is killed, and another one starts.
    Restart,
}

/// The maps before a change, after each row of it, and in the end; the writes of policies.
async fn change(
    from: State,
    to: State,
    fault: Option<(&str, usize, Then)>,
) -> (Vec<View>, Vec<String>) {
    let mut log = Vec::new();
    let mut harness = Harness::with(&[], node(&[7, 8]));
    harness.send(from.events()).await;
    let before = harness.kernel().maps.clone();
    harness.kernel().history = Some(vec![before]);
    if let Some((label, skip, then)) = fault {
        harness.kernel().fail_after(label, skip, 1, libc::ENOMEM);
        harness.send(to.events()).await;
        if then == Then::Restart {
            harness = harness.restart();
            harness.kernel().heal();
            harness.send(to.events()).await;
        }
    } else {
        log = of_policies(&harness.send(to.events()).await).into_iter().map(Into::into).collect();
    }
    harness.run_for(RETRIES).await;
    assert_eq!(harness.condition(Concern::Policy), None);
    let mut history = harness.kernel().history.take().unwrap();
    history.push(harness.kernel().maps.clone());
    let mut views: Vec<View> = history.iter().map(View::of).collect();
    views.dedup();
    (views, log)
}

/// The pods to which a flow of another pod is denied by its one end before and by its other end after a change.
fn exposed_servers(probes: &[Probe], [before, after]: &[Vec<Judgement>; 2]) -> BTreeSet<u8> {
    let mut servers = BTreeSet::new();
    for (at, server) in probes.iter().enumerate() {
        let is_client = |client: &Probe| {
            let addresses = [client, server].map(|probe| format!("10.244.1.{}", probe.pod));
            server.direction == PolicyDirection::Ingress
                && client.direction == PolicyDirection::Egress
                && [server.peer, client.peer] == addresses.each_ref().map(|address| &**address)
                && (client.protocol, client.port) == (server.protocol, server.port)
        };
        let Some(client) = probes.iter().position(is_client) else { continue };
        let passes =
            |verdicts: &[Judgement]| [client, at].map(|at| verdicts[at] == Judgement::Pass);
        let (before, after) = (passes(before), passes(after));
        if before[0] != before[1] && after[0] != after[1] && before != after {
            servers.insert(server.pod);
        }
    }
    servers
}

/// Checks the states of the maps during a change: nothing passes that both states forbid. `exact`: nothing is
/// dropped that both allow, except what is sent to [`exposed_servers`].
fn check(what: &str, views: &[View], expected: &[Vec<Judgement>; 2], exact: bool) {
    let last = &views[views.len() - 1];
    let probes: Vec<Probe> = last.verdicts().into_iter().map(|(probe, _)| probe).collect();
    let servers = exposed_servers(&probes, expected);
    for (step, view) in views.iter().enumerate() {
        for (at, (probe, verdict)) in view.verdicts().into_iter().enumerate() {
            if probe.peer == format!("10.244.1.{}", probe.pod) {
                // What a pod sends to itself does not count.
                continue;
            }
            let passes = verdict == Judgement::Pass;
            let allowed = expected.each_ref().map(|verdicts| verdicts[at] == Judgement::Pass);
            let step = format!("{what}: state {step} of {}: {probe:?} {verdict:?}", views.len());
            assert!(!passes || allowed.contains(&true), "{step}, always forbidden");
            let is_server =
                probe.direction == PolicyDirection::Ingress && servers.contains(&probe.pod);
            let may_drop = !exact || is_server;
            assert!(may_drop || passes || allowed.contains(&false), "{step}, always allowed");
            let remains = passes == allowed[1] || last.judges_again(probe.pod, view.epoch);
            assert!(remains, "{step}, judged at {}, is not judged again", view.epoch);
        }
    }
    let end: Vec<Judgement> = last.verdicts().into_iter().map(|(_, verdict)| verdict).collect();
    assert_eq!(end, expected[1], "{what}");
}

#[tokio::test(start_paused = true)]
async fn each_row_of_a_change_leads_from_one_state_to_the_other() {
    let mut exposed = 0;
    for (i, from) in STATES.into_iter().enumerate() {
        for (j, to) in STATES.into_iter().enumerate() {
            let (views, _) = change(from, to, None).await;
            assert_eq!(views.len() > 1, i != j, "{i} to {j}");
            // Pods whose policies change together with their peers are closed in between.
            let exact = from.relabelled == to.relabelled || from.policies == to.policies;
            let verdicts = verdicts(from, to).await;
            check(&format!("{i} to {j}"), &views, &verdicts, exact);
            let probes: Vec<Probe> =
                views[0].verdicts().into_iter().map(|(probe, _)| probe).collect();
            exposed += exposed_servers(&probes, &verdicts).len();
        }
    }
    assert!(exposed > 0);
}

#[tokio::test(start_paused = true)]
async fn failed_write_at_any_position_opens_nothing_and_leaves_no_flow_unjudged() {
    for (i, from) in STATES.into_iter().enumerate() {
        for (j, to) in STATES.into_iter().enumerate().filter(|(j, _)| *j != i) {
            let expected = verdicts(from, to).await;
            let (_, writes) = change(from, to, None).await;
            for (at, write) in writes.iter().enumerate() {
                let label = write.trim_end_matches(|c: char| c.is_ascii_digit());
                let skip = writes[..at].iter().filter(|other| other.starts_with(label)).count();
                for then in [Then::Retry, Then::Restart] {
                    let (views, _) = change(from, to, Some((label, skip, then))).await;
                    let what = format!("{i} to {j}, {write} {skip}, {then:?}");
                    check(&what, &views, &expected, false);
                }
            }
        }
    }
}
