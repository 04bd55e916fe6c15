//! Delayed reuse of what a plan freed.
//!
//! A program that runs while a plan is written may have loaded a frontend or a slot just before it
//! changed. Slots and backend ids that a plan frees are therefore not reused by the next
//! [`QUARANTINE_PLANS`] plans.

use std::collections::{BTreeSet, VecDeque};

/// Number of plans that must not reuse what a plan freed.
pub const QUARANTINE_PLANS: usize = 2;

/// Freed items that must not be reused yet.
#[derive(Clone, Debug)]
pub struct Quarantine<T> {
    /// What the current plan frees, then what each of the previous plans freed, newest first.
    /// Always `QUARANTINE_PLANS + 1` sets.
    plans: VecDeque<BTreeSet<T>>,
}

impl<T> Default for Quarantine<T> {
    fn default() -> Quarantine<T> {
        Quarantine { plans: (0..=QUARANTINE_PLANS).map(|_| BTreeSet::new()).collect() }
    }
}

impl<T: Ord + Copy> Quarantine<T> {
    /// Adds what the current plan frees.
    pub fn add(&mut self, item: T) {
        if let Some(current) = self.plans.front_mut() {
            current.insert(item);
        }
    }

    /// Whether an item is in quarantine.
    pub fn contains(&self, item: &T) -> bool {
        self.plans.iter().any(|plan| plan.contains(item))
    }

    /// All items in quarantine.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.plans.iter().flatten().copied()
    }

    /// Whether nothing is in quarantine.
    pub fn is_empty(&self) -> bool {
        self.plans.iter().all(BTreeSet::is_empty)
    }

    /// Ends the current plan. Returns the items that the next plan may reuse.
    pub fn end_plan(&mut self) -> BTreeSet<T> {
        self.plans.push_front(BTreeSet::new());
        self.plans.pop_back().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_is_reusable_after_two_further_plans() {
        let mut quarantine = Quarantine::default();
        assert!(quarantine.is_empty());
        quarantine.add(7);
        // The plan that freed it, and the first of the two plans that must not reuse it.
        for _ in 0..2 {
            assert!(quarantine.contains(&7));
            assert!(quarantine.end_plan().is_empty());
        }
        assert!(quarantine.contains(&7), "the second of the two plans is being made");
        assert_eq!(quarantine.end_plan(), BTreeSet::from([7]));
        assert!(!quarantine.contains(&7));
        assert!(quarantine.is_empty());
    }
}
