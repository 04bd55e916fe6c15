//! Recovery: the steps from the rows that the maps have to the desired ones, after a start, after a failed write,
//! or after another program changed rows. Depends on these two sets of rows only; does no I/O.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{PodPolicy, PolicyDirection, PolicyEnd, PolicyPortKey, ports_kind};

use super::LocalPod;
use super::pairs::servers_to_close;
use super::rows::{PolicyRows, RowChange, Step};
use super::tables::CLOSED_END;

impl Step {
    /// The steps from `old`, for example the rows of the maps with revision 0, to `new`: (1) remove rows that no
    /// verdict depends on, (2) close pods, (3) remove classes that are not wanted if old and new ones do not fit
    /// together, (4) change all other rows, (5) open closed pods and add new ones, (6) open the servers of
    /// [`servers_to_close`], which step 2 has closed, and the namespaces. Flows of all isolated pods are judged
    /// again if rows of other maps than `POD_POLICY` change, or if `rejudge`.
    /// `local` are all pods of this node, `capacity` is that of `POLICY_CLASSES`.
    pub fn recovery(
        capacity: u32,
        mut old: PolicyRows,
        new: &PolicyRows,
        local: &[LocalPod],
        rejudge: bool,
    ) -> [Step; 6] {
        let differs = !old.has_tables_of(new);
        let removal = old.take_unused(new);
        let changed = ChangedTables::between(&old, new);
        let unwanted = old.classes.keys().filter(|address| !new.classes.contains_key(address));
        let is_full = new.classes.len() + unwanted.count() > capacity as usize;
        let rewritten = |_: &BTreeSet<u64>| &changed.puts | &changed.deletes;
        let servers = servers_to_close(&old, new, local, rewritten);
        let closing = Step::closing(&old, new, &changed, is_full, &servers);
        let mut eviction = Step::default();
        if is_full {
            let deletes = take(&mut old.classes, |address| new.classes.contains_key(address));
            eviction.classes.deletes = deletes;
        }
        let old = &old;
        let (mut before, mut after) = (old.pods.clone(), new.pods.clone());
        before.extend(closing.pods.iter().copied());
        after.retain(|index, next| {
            let row = before.get(index).filter(|row| row.generation == next.generation);
            for (end, now) in next.ends.iter_mut().zip(row.iter().flat_map(|row| &row.ends)) {
                // A pod that gets a table would be judged by rows that are still to be removed.
                let must_wait = now.table == 0 && changed.deletes.contains(&end.table);
                if *now == CLOSED_END || must_wait {
                    *end = *now;
                }
            }
            let has_removed_rows = next.ends.iter().any(|end| changed.deletes.contains(&end.table));
            row.is_some() || !has_removed_rows && !servers.contains(index)
        });
        let mut networks = RowChange::between(&old.networks, &new.networks);
        networks.puts.sort_by_key(|(key, _)| Reverse(*key));
        let mut middle = Step {
            ports: RowChange::between(&old.ports, &new.ports),
            peers: RowChange::between(&old.peers, &new.peers),
            networks,
            classes: RowChange::between(&old.classes, &new.classes),
            pods: RowChange::between(&before, &after).with_zeros().collect(),
            open_namespaces: RowChange::between(&old.open_namespaces, &new.open_namespaces),
        };
        let mut last = Step::default();
        last.open_namespaces.puts = std::mem::take(&mut middle.open_namespaces.puts);
        if rejudge || differs {
            // Not by the new rows: pods that are added last do not have one yet.
            middle.rejudge_isolated(&after);
        }
        let mut waiting = new.pods.clone();
        waiting.retain(|index, next| {
            let is_server = servers.contains(index);
            let has_row = old.pods.get(index).is_some_and(|row| row.generation == next.generation);
            if is_server {
                next.ends[PolicyDirection::Ingress as usize] = CLOSED_END;
            }
            has_row || !is_server
        });
        let pods = RowChange::between(&after, &waiting).with_zeros().collect();
        let opening = Step { pods, ..Step::default() };
        last.pods = RowChange::between(&waiting, &new.pods).with_zeros().collect();
        [removal, closing, eviction, middle, opening, last]
    }

    /// Closes pods before the other rows change: `all` isolated ones if addresses have no class for a moment. If
    /// addresses move to other classes: pods whose table, or whose
    /// table's rows, change, because neither the former nor the new rows are valid for both sets of classes.
    /// Otherwise: pods that leave a table that gains rows, which are added before the pod's row changes, and pods
    /// that get a table that loses rows, which are removed after it. In between, rows for other pods would decide.
    /// The ingress of `servers` is closed in any case ([`super::pairs`]).
    fn closing(
        old: &PolicyRows,
        new: &PolicyRows,
        changed: &ChangedTables,
        all: bool,
        servers: &BTreeSet<u32>,
    ) -> Step {
        let mut step = Step::default();
        let moves = old.classes != new.classes || old.networks != new.networks;
        for (index, row) in &old.pods {
            let next = new.pods.get(index).filter(|next| next.generation == row.generation);
            let mut closed = *row;
            for (at, end) in closed.ends.iter_mut().enumerate() {
                let next = next.map(|next| next.ends[at]);
                let changes = match next {
                    _ if all => true,
                    _ if moves => {
                        let rows = [&changed.puts, &changed.deletes];
                        next != Some(*end) || rows.iter().any(|tables| tables.contains(&end.table))
                    }
                    Some(next) if next.table == end.table => false,
                    next => {
                        let joins_late = next.is_some_and(|e| changed.deletes.contains(&e.table));
                        changed.puts.contains(&end.table) || joins_late
                    }
                };
                let is_server = at == PolicyDirection::Ingress as usize && servers.contains(index);
                if changes && end.table != 0 || is_server {
                    *end = CLOSED_END;
                }
            }
            if closed != *row {
                step.pods.push((*index, closed));
            }
        }
        step
    }

    /// Makes the flows of all isolated pods be judged again; `pods` are the rows after the step.
    fn rejudge_isolated(&mut self, pods: &BTreeMap<u32, PodPolicy>) {
        let written: BTreeSet<u32> = self.pods.iter().map(|(index, _)| *index).collect();
        let is_isolated = |row: &PodPolicy| row.ends.iter().any(|end| end.table != 0);
        for (index, row) in pods {
            if is_isolated(row) && !written.contains(index) {
                self.pods.push((*index, *row));
            }
        }
    }
}

impl PolicyRows {
    /// Whether classes, networks, tables and ports are the same.
    fn has_tables_of(&self, other: &PolicyRows) -> bool {
        self.classes == other.classes
            && self.networks == other.networks
            && self.peers == other.peers
            && self.ports == other.ports
    }

    /// Removes and returns the rows that no verdict depends on and that are not wanted. Rows that an interrupted
    /// step left must not use capacity, nor apply to a pod or a peer that gets their table or class.
    fn take_unused(&mut self, wanted: &PolicyRows) -> Step {
        let ends: Vec<PolicyEnd> = self.pods.values().flat_map(|row| row.ends).collect();
        let tables: BTreeSet<u64> = ends.iter().map(|end| end.table).collect();
        let classes = self.classes_in_use();
        let mut step = Step::default();
        step.peers.deletes = take(&mut self.peers, |key| {
            tables.contains(&key.table) && classes.contains(&key.class)
                || wanted.peers.contains_key(key)
        });
        let used = self.peers.values().chain(ends.iter().map(|end| &end.otherwise));
        let sets: BTreeSet<u64> =
            used.filter(|ports| ports.kind == ports_kind::SET).map(|ports| ports.id).collect();
        // A set that is wanted has no other rows: another program has added them.
        let id = |key: &PolicyPortKey| -> u64 { zerocopy::transmute!(key.id) };
        let complete: BTreeSet<u64> = wanted.ports.keys().map(id).collect();
        step.ports.deletes = take(&mut self.ports, |key| {
            wanted.ports.contains_key(key)
                || sets.contains(&id(key)) && !complete.contains(&id(key))
        });
        step
    }

    /// The classes that addresses have.
    fn classes_in_use(&self) -> BTreeSet<u64> {
        self.classes.values().chain(self.networks.values()).copied().collect()
    }
}

/// Tables whose rows change for a class that is in use.
struct ChangedTables {
    /// Tables that gain or change a row for a class that is in use before the change.
    puts: BTreeSet<u64>,
    /// Tables that lose a row for a class that is in use after the change.
    deletes: BTreeSet<u64>,
}

impl ChangedTables {
    fn between(old: &PolicyRows, new: &PolicyRows) -> ChangedTables {
        let (before, after) = (old.classes_in_use(), new.classes_in_use());
        let puts = new.peers.iter().filter(|(key, ports)| {
            before.contains(&key.class) && old.peers.get(key) != Some(ports)
        });
        let deletes = old.peers.keys();
        let deletes =
            deletes.filter(|key| after.contains(&key.class) && !new.peers.contains_key(key));
        ChangedTables {
            puts: puts.map(|(key, _)| key.table).collect(),
            deletes: deletes.map(|key| key.table).collect(),
        }
    }
}

/// Removes the rows whose key is not in use; returns their keys.
fn take<K: Ord + Copy, V>(rows: &mut BTreeMap<K, V>, in_use: impl Fn(&K) -> bool) -> Vec<K> {
    rows.extract_if(.., |key, _| !in_use(key)).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use sluice_abi::map::POLICY_CLASSES_MAX as LARGEST;
    use sluice_abi::{Addr, PolicyPeerKey, PolicyPorts, PortBe};

    use super::*;
    use crate::compile::network_key;

    /// One isolated pod with table 1, and one address of class 1.
    fn rows() -> PolicyRows {
        let end = PolicyEnd { table: 1, otherwise: PolicyPorts::NONE };
        let pod = PodPolicy { generation: 1, ends: [end; 2], ..PodPolicy::default() };
        let mut rows = PolicyRows::default();
        rows.pods.insert(7, pod);
        rows.classes.insert(Addr::from(Ipv4Addr::new(10, 244, 1, 2)), 1);
        rows.peers.insert(PolicyPeerKey { table: 1, class: 1 }, PolicyPorts::ALL);
        rows
    }

    #[test]
    fn rows_that_judge_nothing_and_are_not_wanted_are_removed_first() {
        let mut wanted = rows();
        for row in wanted.pods.values_mut() {
            row.ends[1].table = 2;
        }
        wanted.peers.insert(PolicyPeerKey { table: 2, class: 1 }, PolicyPorts::ALL);
        let mut found = rows();
        // Of the table that the pod gets; of a class that no peer has yet; of neither.
        let unused = [(2, 3), (1, 2), (3, 3)].map(|(table, class)| PolicyPeerKey { table, class });
        found.peers.extend(unused.map(|key| (key, PolicyPorts::set(9))));
        // Rows that will be replaced take no more space.
        found.peers.insert(PolicyPeerKey { table: 2, class: 1 }, PolicyPorts::NONE);
        let of_nine =
            PolicyPortKey { prefix_len: 64, id: zerocopy::transmute!(9u64), ..Default::default() };
        found.ports.insert(of_nine, 1);
        let removal = found.take_unused(&wanted);
        let removed: Vec<_> = removal.peers.deletes.iter().map(|k| (k.table, k.class)).collect();
        assert_eq!((removed, removal.ports.deletes.len()), (vec![(1, 2), (2, 3), (3, 3)], 1));
        let kept: Vec<_> = found.peers.keys().map(|key| (key.table, key.class)).collect();
        assert_eq!((kept, found.ports.len()), (vec![(1, 1), (2, 1)], 0));
    }

    #[test]
    fn foreign_rows_of_a_set_that_stays_are_removed_first_and_flows_judged_again() {
        let set = |port| PolicyPortKey {
            prefix_len: 96,
            id: zerocopy::transmute!(9u64),
            proto: 6,
            port: PortBe::new(port),
            ..Default::default()
        };
        let mut wanted = rows();
        wanted.peers.insert(PolicyPeerKey { table: 1, class: 1 }, PolicyPorts::set(9));
        wanted.ports.insert(set(80), 1);
        let mut found = wanted.clone();
        found.ports.insert(set(22), 1);
        let [removal, closing, _, middle, _, _] =
            Step::recovery(LARGEST, found, &wanted, &[], false);
        assert_eq!((removal.ports.deletes, closing.pods.len()), (vec![set(22)], 0));
        assert_eq!((middle.ports.is_empty(), middle.pods.len()), (true, 1));
    }

    /// While no agent runs, many addresses can be replaced by others.
    #[test]
    fn classes_that_do_not_fit_beside_the_former_ones_replace_them_while_pods_are_closed() {
        let address = |n: u8| Addr::from(Ipv4Addr::new(10, 244, 1, n));
        let with = |numbers: std::ops::Range<u8>| {
            let mut rows = rows();
            rows.classes = numbers.map(|n| (address(n), 1)).collect();
            rows
        };
        let (found, wanted) = (with(0..7), with(5..12));
        for (capacity, evicted) in [(12, 0), (11, 5), (8, 5)] {
            let steps = Step::recovery(capacity, found.clone(), &wanted, &[], false);
            let mut rows = found.clone();
            for (at, step) in steps.iter().enumerate() {
                let closed = rows.pods.values().all(|pod| pod.ends == [CLOSED_END; 2]);
                assert!(step.classes.deletes.is_empty() || evicted == 0 || closed, "step {at}");
                // Puts precede deletions in a step.
                rows.classes.extend(step.classes.puts.iter().copied());
                assert!(rows.classes.len() <= capacity as usize, "step {at} of {capacity}");
                step.classes.apply(&mut rows.classes);
                rows.pods.extend(step.pods.iter().copied());
            }
            assert_eq!(steps[2].classes.deletes.len(), evicted, "{capacity}");
            assert_eq!((rows.classes, rows.pods), (wanted.classes.clone(), wanted.pods.clone()));
        }
    }

    #[test]
    fn rows_that_judge_flows_stay_until_pods_change_over() {
        let mut found = rows();
        let set = |id: u64| PolicyPortKey {
            prefix_len: 64,
            id: zerocopy::transmute!(id),
            ..Default::default()
        };
        found.ports.extend([(set(8), 1), (set(9), 1)]);
        for row in found.pods.values_mut() {
            row.ends[0].otherwise = PolicyPorts::set(8);
        }
        // A denied range.
        let network = "203.0.113.0/24".parse().unwrap();
        found.networks.insert(network_key(network), 2);
        found.peers.insert(PolicyPeerKey { table: 1, class: 1 }, PolicyPorts::set(9));
        found.peers.insert(PolicyPeerKey { table: 1, class: 2 }, PolicyPorts::NONE);
        let before = found.clone();
        assert!(found.take_unused(&PolicyRows::default()).is_empty());
        assert_eq!(found, before);
    }
}
