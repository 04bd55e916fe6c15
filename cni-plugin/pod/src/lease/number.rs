//! Index and generation of leases that come from elsewhere than ADD: from the lease file of a former
//! version, or from the aliases of devices.

use std::collections::BTreeSet;
use std::io;

use super::allocation::lowest_free_index;
use super::{Entry, INDEX_MAX, Lease};

/// A lease's number among the pods of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// [`Lease::index`].
    pub index: u32,
    /// [`Lease::generation`].
    pub generation: u32,
}

impl Number {
    /// Whether a lease may have this number.
    pub(crate) fn is_valid(self) -> bool {
        self.index < INDEX_MAX && self.generation != 0
    }
}

/// A lease whose number is not known to be valid and unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The lease; its index and generation have no meaning.
    pub lease: Lease,
    /// The number that the lease had.
    pub number: Option<Number>,
}

impl Draft {
    /// Whether the file of this lease has the name `entry`, whatever its index.
    pub fn is_of(&self, entry: &Entry) -> bool {
        (self.lease.address, &self.lease.host_ifname) == (entry.address, &entry.host_ifname)
    }
}

/// Gives each draft its number: the one that it had, unless it is invalid or in use, else the lowest
/// free index and the `generation` that follows for it. Drafts for which no index is left are omitted.
///
/// # Errors
/// `generation` fails.
pub(super) fn number(
    drafts: Vec<Draft>,
    used: &mut BTreeSet<u32>,
    mut generation: impl FnMut(u32) -> io::Result<u32>,
) -> io::Result<Vec<Lease>> {
    let (mut leases, mut others) = (Vec::new(), Vec::new());
    for Draft { lease, number } in drafts {
        match number.filter(|n| n.is_valid() && used.insert(n.index)) {
            Some(Number { index, generation }) => leases.push(Lease { index, generation, ..lease }),
            None => others.push(lease),
        }
    }
    for lease in others {
        let Ok(index) = lowest_free_index(used.iter().copied()) else { break };
        used.insert(index);
        leases.push(Lease { index, generation: generation(index)?, ..lease });
    }
    Ok(leases)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::lease::fixture::lease;

    #[test]
    fn a_draft_keeps_a_valid_number_and_gets_the_lowest_free_one_otherwise() {
        let draft = |id: &str, number: Option<(u32, u32)>| Draft {
            lease: lease(id),
            number: number.map(|(index, generation)| Number { index, generation }),
        };
        let drafts = vec![
            draft("none", None),
            draft("kept", Some((2, 7))),
            draft("twice", Some((2, 8))),
            draft("in use", Some((0, 9))),
            draft("zero", Some((5, 0))),
            draft("beyond", Some((INDEX_MAX, 1))),
            draft("last", Some((INDEX_MAX - 1, 1))),
        ];
        let mut used = BTreeSet::from([0]);
        let mut next = 100;
        let leases = number(drafts, &mut used, |_| {
            next += 1;
            Ok(next)
        });
        let numbers: Vec<_> = leases
            .unwrap()
            .iter()
            .map(|l| (l.key.container_id.clone(), l.index, l.generation))
            .collect();
        let expected = [
            ("kept", 2, 7),
            ("last", INDEX_MAX - 1, 1),
            ("none", 1, 101),
            ("twice", 3, 102),
            ("in use", 4, 103),
            ("zero", 5, 104),
            ("beyond", 6, 105),
        ];
        assert_eq!(numbers, expected.map(|(id, index, g)| (id.to_owned(), index, g)));
        let mut full: BTreeSet<u32> = (0..INDEX_MAX).collect();
        assert_eq!(number(vec![draft("none", None)], &mut full, |_| Ok(1)).unwrap(), []);
    }
}
