//! Random sequences of changes, written as the agent writes them, with packets between every two: the
//! verdicts on new flows and on open ones, replies included, are those of the oracle.
//!
//! ```text
//! event --> index --> compiler --Step, Step..--> rows in the maps, one by one
//!                                                     |  in between: what passes before and after passes,
//!                                                     |  what is denied before and after is dropped
//!                                                     +--> packets of new flows and of open ones
//! ```
//! A sequence that fails is made smaller and printed as YAML.

mod event;
mod failure;
mod flow;
mod maps;
mod packets;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use packet_tests::Datapath;
use packet_tests::random::{Random, cases};
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use sluice_core::generate::{self, NodeChange, PolicySequence, SequenceStep};
use sluice_core::model::{Change, Kind, Object, ObjectName};
use sluice_core::policy::{LocalPod, Policies};
use sluice_core::{Index, PolicyDirty};

use self::event::{Event, event};
use self::failure::Failure;
use self::flow::OpenFlow;
use self::maps::Maps;
use super::world::{Probe, World, compiled, put_pod, remove_pod, runner, write};

/// Flows that are judged in an ordinary run; `CASES` has another number.
const CASES: usize = 20_000;
/// New flows after each change.
const NEW: usize = 8;
/// Flows that are kept open.
const OPEN: usize = 16;

/// What the flows of a run were; what never occurs shows nothing.
#[derive(Debug, Default)]
struct Tally {
    judged: usize,
    /// Open flows, by whether they were allowed before a change and are after it.
    open: BTreeMap<(bool, bool), usize>,
    /// Of those that stay allowed, those that are judged again.
    again: usize,
    /// Flows between two writes, by the same; those about which nothing is required are left out.
    between: BTreeMap<(bool, bool), usize>,
    /// Flows that pass before and after a change of one object, but not in between, because their server is closed.
    closed: usize,
    /// Flows between two writes that one end denies before, and the other one after the change.
    crossing: usize,
}

/// The node: its objects and pods, what the compiler knows, and the real maps.
struct Node<'a> {
    maps: Maps<'a>,
    objects: BTreeMap<(Kind, ObjectName), Object>,
    index: Index,
    policies: Policies,
    world: World,
    generations: BTreeMap<u16, u16>,
    undo: Option<Change>,
    /// Whether the last change has ended flows.
    cut: bool,
    flows: Vec<OpenFlow>,
    sport: u16,
    /// The only flow to try, if a failure is sought again.
    only: Option<Probe>,
}

impl<'a> Node<'a> {
    /// A node on which all rows have been written, as before the first change.
    fn start(datapath: &'a Datapath, sequence: &PolicySequence, only: Option<Probe>) -> Node<'a> {
        let (objects, leases) = (sequence.objects.clone(), sequence.pods.clone());
        let (index, policies) = compiled(&objects, &leases);
        let rows = policies.rows();
        let generations = leases.iter().map(|lease| (lease.index, lease.generation)).collect();
        let objects: BTreeMap<_, _> =
            objects.into_iter().map(|o| ((o.kind(), o.name()), o)).collect();
        let world = World { objects: objects.values().cloned().collect(), leases, rows };
        write(datapath, &world);
        let maps = Maps::new(datapath, &world.rows);
        Node {
            maps,
            objects,
            index,
            policies,
            world,
            generations,
            undo: None,
            cut: false,
            flows: Vec::new(),
            sport: 1024,
            only,
        }
    }

    /// Opens the flows that exist before the first change.
    fn open_flows(&mut self, seed: u64, tally: &mut Tally) -> Result<(), Failure> {
        let mut random = Random::from_seed(seed);
        (0..OPEN).try_for_each(|_| self.new_flow(&mut random, tally))
    }

    fn apply(&mut self, change: Change) {
        let back = |former: Option<Object>, kind, name| match former {
            Some(object) => Change::Apply(object),
            None => Change::Delete(kind, name),
        };
        self.undo = match &change {
            Change::Apply(object) => {
                let key = (object.kind(), object.name());
                let former = self.objects.insert(key.clone(), object.clone());
                Some(back(former, key.0, key.1))
            }
            Change::Delete(kind, name) => {
                let former = self.objects.remove(&(*kind, name.clone()));
                Some(back(former, *kind, name.clone()))
            }
            Change::Retain(kind, names) => {
                self.objects.retain(|(k, name), _| k != kind || names.contains(name));
                None
            }
            Change::Replace(..) => panic!("{change:?} is not generated"),
        };
        self.index.apply(change);
    }

    /// Replaces the pods of the node. An index is used again with the next generation.
    fn lease(&mut self, mut leases: Vec<LocalPod>) {
        let of = |lease: &LocalPod| (lease.index, lease.address, lease.name.clone(), lease.uid);
        for lease in &mut leases {
            match self.world.leases.iter().find(|old| of(old) == of(lease)) {
                Some(old) => lease.generation = old.generation,
                None => {
                    let last = self.generations.get(&lease.index).copied().unwrap_or_default();
                    lease.generation = last + 1;
                    self.generations.insert(lease.index, lease.generation);
                }
            }
        }
        for gone in self.world.leases.iter().filter(|old| !leases.contains(old)) {
            remove_pod(self.maps.datapath, gone);
        }
        for new in leases.iter().filter(|new| !self.world.leases.contains(new)) {
            put_pod(self.maps.datapath, new);
        }
        self.world.leases = leases;
    }

    /// What an event changes here; `None` if nothing.
    fn change_of(&self, event: Event) -> Option<NodeChange> {
        Some(match event {
            Event::Change(change) => NodeChange::Objects(vec![change]),
            Event::Changes(changes) => NodeChange::Objects(changes),
            Event::Edit(edit) => NodeChange::Objects(vec![edit.change(&self.index)?]),
            Event::Undo => NodeChange::Objects(vec![self.undo.clone()?]),
            Event::Leases(leases) => NodeChange::Pods(leases),
            Event::Remove(at) => {
                let mut leases = self.world.leases.clone();
                (at < leases.len()).then(|| leases.remove(at))?;
                NodeChange::Pods(leases)
            }
        })
    }

    /// Carries out a change, with packets between the writes, and after them.
    fn carry_out(&mut self, step: &SequenceStep, tally: &mut Tally) -> Result<(), Failure> {
        let mut random = Random::from_seed(step.seed);
        let draws_between = random.below(3) == 0;
        let before = self.world.clone();
        match &step.change {
            NodeChange::Objects(changes) => {
                changes.iter().for_each(|change| self.apply(change.clone()));
                if changes.len() != 1 {
                    self.undo = None;
                }
            }
            NodeChange::Pods(leases) => self.lease(leases.clone()),
        }
        let dirty = self.index.take_policy_dirty();
        let is_one = is_one(&before, &dirty, &self.index, self.world.leases != before.leases);
        let steps = self.policies.update(&self.index, &dirty, &self.world.leases);
        self.world.rows = self.policies.rows();
        self.world.objects = self.objects.values().cloned().collect();
        // A flow ends with its pod. A pod with the address of a former one has flows of its own.
        let changed: BTreeSet<_> = before
            .leases
            .iter()
            .chain(&self.world.leases)
            .filter(|l| !before.leases.contains(l) || !self.world.leases.contains(l))
            .map(|lease| lease.address)
            .collect();
        self.flows.retain(|open| {
            let flow = open.probe.flow;
            !changed.contains(&flow.source) && !changed.contains(&flow.destination)
        });
        let looks = draws_between && changed.is_empty();
        let rows = steps.iter().flat_map(|step| &step.pods).map(|(index, _)| *index);
        let rewritten: BTreeSet<u32> = rows.collect();
        let crossing = if looks { self.crossing(&before) } else { Vec::new() };
        for step in &steps {
            for write in self.maps.writes(step) {
                for at in 0..write.len() {
                    self.maps.put_row(&write, at)?;
                    if looks {
                        let (states, rows) = ((&before, is_one), (&rewritten, &crossing[..]));
                        self.between(states, rows, &mut random, tally)?;
                    }
                }
            }
            self.maps.written(step);
        }
        self.check_flows(&before, &rewritten, &mut random, tally)?;
        (0..NEW).try_for_each(|_| self.new_flow(&mut random, tally))
    }

    /// The maps have the rows of compiling afresh.
    fn check_rows(&self) -> Result<(), Failure> {
        let fresh = World::new(self.world.objects.clone(), self.world.leases.clone()).rows;
        let found = self.maps.rows();
        if found == fresh {
            return Ok(());
        }
        let text = format!("rows are not those of compiling afresh\n{found:?}\nexpected {fresh:?}");
        Err(Failure::of_rows(text))
    }
}

/// Carries out a sequence again; with packets of one flow only, if there is one.
fn replay(
    datapath: &Datapath,
    sequence: &PolicySequence,
    only: Option<Probe>,
) -> Result<(), Failure> {
    let mut tally = Tally::default();
    let mut node = Node::start(datapath, sequence, only);
    node.open_flows(sequence.seed, &mut tally)?;
    sequence.steps.iter().try_for_each(|step| node.carry_out(step, &mut tally))?;
    node.check_rows()
}

/// Carries out events, which become the changes of the sequence.
fn carry_out_events(
    datapath: &Datapath,
    sequence: &mut PolicySequence,
    events: Vec<Event>,
    random: &mut Random,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut node = Node::start(datapath, sequence, None);
    node.open_flows(sequence.seed, tally)?;
    for event in events {
        let mut next = Some(event);
        while let Some(change) = next.take().and_then(|event| node.change_of(event)) {
            let step = SequenceStep { change, seed: random.bits() };
            sequence.steps.push(step.clone());
            node.carry_out(&step, tally)?;
            // What has ended flows is often taken back, so that they go on.
            let is_undone = std::mem::take(&mut node.cut) && random.below(2) == 0;
            next = is_undone.then_some(Event::Undo);
        }
    }
    node.check_rows()
}

/// Whether a flow keeps its verdict between the writes of a change: it is of one object, or of the pods of the
/// node, and no object is a pod and its peer at once.
fn is_one(before: &World, dirty: &PolicyDirty, index: &Index, leased: bool) -> bool {
    let objects = dirty.pods.len() + dirty.policies.len();
    let shares = |addresses: Vec<IpAddr>| {
        let mut seen = BTreeSet::new();
        !addresses.into_iter().all(|address| seen.insert(address))
    };
    let shared_before = shares(
        before
            .objects
            .iter()
            .filter_map(|object| match object {
                Object::Pod(pod) => Some(pod.ips.iter()),
                _ => None,
            })
            .flatten()
            .collect(),
    );
    let shared = shares(index.pods().flat_map(|pod| pod.ips.iter()).collect());
    objects + usize::from(dirty.nodes) + usize::from(leased) <= 1
        && dirty.namespaces.is_empty()
        && !shared_before
        && !shared
}

#[test]
fn verdicts_after_and_during_random_changes_are_those_of_the_oracle() {
    let cases = cases(CASES);
    let mut random = Random::from_environment();
    let mut runner = runner(&mut random);
    let sequences = (generate::policy_objects(), generate::leases(), vec(event(), 4..12));
    let mut tally = Tally::default();
    let datapath = Datapath::node();
    while tally.judged < cases {
        let (objects, pods, events) = sequences.new_tree(&mut runner).unwrap().current();
        let seed = random.bits();
        let mut sequence = PolicySequence { objects, pods, seed, steps: Vec::new() };
        carry_out_events(&datapath, &mut sequence, events, &mut random, &mut tally)
            .unwrap_or_else(|failure| panic!("\n{}", failure.smallest(&sequence)));
    }
    println!("{tally:#?}");
    if cases >= CASES {
        let thousandth = |count: usize| count * 1000 / tally.judged;
        let of =
            |of: &BTreeMap<(bool, bool), usize>, key| of.get(&key).copied().unwrap_or_default();
        for (name, count, least) in [
            ("open, stays", of(&tally.open, (true, true)), 100),
            ("open, judged again", tally.again, 20),
            ("open, ends", of(&tally.open, (true, false)), 3),
            ("denied, goes on", of(&tally.open, (false, true)), 1),
            ("between, passes", of(&tally.between, (true, true)), 2),
            ("between, is dropped", of(&tally.between, (false, false)), 10),
        ] {
            assert!(thousandth(count) >= least, "{name}: {count}, {tally:?}");
        }
        // Rare, and then many of one change.
        assert!(tally.crossing > 0 || cases < 10 * CASES, "crossing: none, {tally:?}");
    }
}
