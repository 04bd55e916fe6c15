//! Pairs of pods of the node: one end of a flow changes before the other one.

use proptest::test_runner::TestCaseError;
use sluice_abi::pod_policy_flags::JUDGES_HAIRPIN;

use super::*;
use crate::cases::policy_notation::{World, rule};

/// The flows between pods of the node, by index of the client, of the server, and number of the probe, that pass.
type Flows = BTreeSet<(u16, u16, usize)>;

/// The flows that pass, without those that a pod sends to an address of its own, which programs may not judge.
fn passing(rows: &PolicyRows, local: &[LocalPod], own: &Own) -> Flows {
    let mut flows = Flows::new();
    for (client, server) in pairs(local) {
        let is_own = |pod: &LocalPod, peer: &LocalPod| {
            pod.name.as_ref().is_some_and(|name| own.contains(&(name.clone(), peer.address)))
        };
        if client == server || is_own(client, server) || is_own(server, client) {
            continue;
        }
        let passes = probes_of(rows, client, server, |sends, receives| sends && receives);
        flows.extend(passes.map(|probe| (client.index, server.index, probe)));
    }
    flows
}

fn pairs(local: &[LocalPod]) -> impl Iterator<Item = (&LocalPod, &LocalPod)> {
    local.iter().flat_map(|client| local.iter().map(move |server| (client, server)))
}

/// The numbers of the probes for which the verdicts of both ends are as required.
fn probes_of<'a>(
    rows: &'a PolicyRows,
    client: &'a LocalPod,
    server: &'a LocalPod,
    is_required: impl Fn(bool, bool) -> bool + 'a,
) -> impl Iterator<Item = usize> + 'a {
    let probes = generate::policy_probes().into_iter().enumerate();
    probes.filter_map(move |(number, (protocol, port))| {
        let passes = |pod: &LocalPod, direction, peer: &LocalPod| {
            rows.judge(pod, direction, peer.address, protocol, port) == Judgement::Pass
        };
        let sends = passes(client, PolicyDirection::Egress, server);
        let receives = passes(server, PolicyDirection::Ingress, client);
        is_required(sends, receives).then_some(number)
    })
}

/// Whether a flow to a pod is denied by its one end only before, and by its other end only after a change.
pub fn is_exposed(change: &Transition, local: &[LocalPod], server: &LocalPod) -> bool {
    let judges_itself = [change.before, change.after].iter().all(|rows| {
        let row = rows.pods.get(&server.index.into());
        row.is_some_and(|row| row.flags & JUDGES_HAIRPIN != 0)
    });
    local.iter().filter(|client| *client != server || judges_itself).any(|client| {
        let denied_by = |rows, by_client: bool| -> BTreeSet<usize> {
            let is_required = move |sends, receives| sends != by_client && receives == by_client;
            probes_of(rows, client, server, is_required).collect()
        };
        [true, false].into_iter().any(|by_client| {
            let (before, after) = (change.before, change.after);
            !denied_by(before, by_client).is_disjoint(&denied_by(after, !by_client))
        })
    })
}

/// Carries out the steps of a change, or, if it is interrupted, the first writes of rows, as many as `left`. What
/// passes between two writes passes before or after them.
fn check(
    maps: &mut Maps,
    steps: &[Step],
    after: &PolicyRows,
    (local, own): (&[LocalPod], &Own),
    mut left: usize,
) -> Result<(), TestCaseError> {
    let (was, will) = (passing(&maps.rows, local, own), passing(after, local, own));
    for step in steps {
        for write in step.writes(maps.epoch, &maps.rows.pods) {
            for at in 0..write.len() {
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                maps.apply(&write, at);
                let mut now = passing(&maps.rows, local, own);
                now.retain(|flow| !was.contains(flow) && !will.contains(flow));
                prop_assert!(now.is_empty(), "{:?}: {:?} pass", write.table(), now);
            }
        }
    }
    prop_assert_eq!(&maps.rows, after);
    Ok(())
}

/// Never interrupted.
const COMPLETE: usize = usize::MAX;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(400), failure_persistence: None, ..Default::default() })]

    #[test]
    fn flows_between_pods_of_a_node_do_not_pass_while_one_end_has_changed(
        objects in generate::policy_objects(),
        first in generate::leases(),
        updates in vec(vec(event(), 1..6), 1..6),
    ) {
        let own = own_of(&objects, updates.iter().flatten());
        let (mut index, mut local) = (index_of(&objects), first);
        let mut policies = Policies::default();
        policies.update(&index, &index.clone().take_policy_dirty(), &local);
        index.take_policy_dirty();
        let mut maps = Maps { rows: policies.rows(), ..Maps::default() };
        for events in updates {
            apply_together(events, &mut index, &mut local);
            let steps = policies.update(&index, &index.clone().take_policy_dirty(), &local);
            index.take_policy_dirty();
            check(&mut maps, &steps, &policies.rows(), (&local, &own), COMPLETE)?;
        }
    }

    #[test]
    fn flows_between_pods_of_a_node_do_not_pass_during_recovery(
        objects in generate::policy_objects(),
        first in generate::leases(),
        interrupted in vec(event(), 1..6),
        left in 0..200usize,
        while_away in vec(event(), 1..6),
    ) {
        let own = own_of(&objects, interrupted.iter().chain(&while_away));
        let (mut index, mut local) = (index_of(&objects), first);
        let mut policies = Policies::default();
        policies.update(&index, &index.clone().take_policy_dirty(), &local);
        index.take_policy_dirty();
        let mut maps = Maps { rows: policies.rows(), ..Maps::default() };
        let interrupted = interrupted.into_iter().filter(|event| !event.is_of_leases());
        interrupted.for_each(|event| event.apply(&mut index, &mut local));
        let steps = policies.update(&index, &index.clone().take_policy_dirty(), &local);
        let _ = check(&mut maps, &steps, &policies.rows(), (&local, &own), left);
        maps.epoch = maps.revisions.values().copied().max().unwrap_or_default().max(maps.epoch);
        while_away.into_iter().for_each(|event| event.apply(&mut index, &mut local));
        let after = afresh(&index, &local);
        let found = maps.rows.clone();
        let steps = Step::recovery(map::POLICY_CLASSES_MAX, found, &after, &local, false);
        check(&mut maps, &steps, &after, (&local, &own), COMPLETE)?;
    }
}

/// A pod that waits for its table, which loses rows, is isolated later than others.
#[test]
fn server_stays_closed_until_a_client_that_waits_is_isolated() {
    let pods = |client: &str| {
        World::new()
            .pod("shop/a", "name=a", "10.244.1.2", &[])
            .pod("shop/b", client, "10.244.1.3", &[])
            .pod("shop/x", "role=x", "10.244.1.4", &[])
            .pod("shop/u", "name=u", "10.244.1.5", &[])
            .pod("shop/k", "name=k", "10.244.2.2", &[])
    };
    let known = rule(&["name=k"], &["TCP 80"]);
    let other = rule(&["name=x"], &["TCP 80"]);
    let user = |world: World| {
        world.policy("shop/user", "name=u", None, Some(std::slice::from_ref(&known)))
    };
    let before = user(pods("name=b")).policy("shop/server", "name=a", Some(&[]), None).policy(
        "shop/client",
        "role=x",
        None,
        Some(&[known.clone(), other.clone()]),
    );
    let after = user(pods("name=b,role=x")).policy("shop/client", "role=x", None, Some(&[other]));
    for world in [&before, &after] {
        world.expect(false, &["shop/b > shop/a: TCP 80"]);
    }
    let local = &before.local;
    let (rows, wanted) = (afresh(&before.index(), local), afresh(&after.index(), local));
    let steps = Step::recovery(map::POLICY_CLASSES_MAX, rows.clone(), &wanted, local, false);
    let mut maps = Maps { rows, ..Maps::default() };
    check(&mut maps, &steps, &wanted, (local, &Own::new()), COMPLETE).unwrap();
}

/// The client is opened, and the server is closed, by one update: nothing passes in between, in either order of
/// their indices. A server that is not concerned stays open.
#[test]
fn server_is_closed_while_its_client_opens_and_it_denies() {
    for (client, server) in [("a", "b"), ("b", "a")] {
        let pods = World::new()
            .pod("shop/a", "name=a", "10.244.1.2", &[])
            .pod("shop/b", "name=b", "10.244.1.3", &[])
            .pod("shop/c", "name=c", "10.244.1.4", &[]);
        let [from, to] = [client, server].map(|name| format!("name={name}"));
        let before = pods.clone().policy("shop/client", &from, None, Some(&[]));
        let after = pods.policy("shop/server", &to, Some(&[]), None);
        let flow = format!("shop/{client} > shop/{server}: TCP 80");
        for world in [&before, &after] {
            world.expect(false, &[&flow]);
        }
        let local = &before.local;
        let (mut policies, everything) = (Policies::default(), PolicyDirty::everything());
        policies.update(&before.index(), &everything, local);
        let rows = policies.rows();
        let steps = policies.update(&after.index(), &everything, local);
        let wanted = policies.rows();
        let recovery = Step::recovery(map::POLICY_CLASSES_MAX, rows.clone(), &wanted, local, false);
        let is_server = |pod: &&LocalPod| {
            pod.name.as_ref().is_some_and(|name| name.to_string() == format!("shop/{server}"))
        };
        let index = local.iter().find(is_server).map(|pod| u32::from(pod.index));
        for steps in [&steps[..], &recovery] {
            let pods = steps.iter().flat_map(|step| &step.pods);
            let closed = pods.filter(|(_, row)| row.ends[1] == CLOSED_END).map(|(at, _)| Some(*at));
            assert_eq!(closed.collect::<BTreeSet<_>>(), [index].into());
            let mut maps = Maps { rows: rows.clone(), ..Maps::default() };
            check(&mut maps, steps, &wanted, (local, &Own::new()), COMPLETE).unwrap();
        }
    }
}
