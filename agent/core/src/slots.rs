//! Runs of slots in one big array.
//!
//! The smallest free run that fits is taken, the leftmost among equals; neighbours coalesce when
//! they are freed. Knows nothing of what a slot holds.

use std::collections::{BTreeMap, BTreeSet};

/// A run of slots: `offset .. offset + len`. A run of length 0 lies nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// First slot.
    pub offset: u32,
    /// Number of slots.
    pub len: u32,
}

impl Run {
    /// Slot after the last; wide, for runs that were read from outside may be anything.
    fn end(self) -> u64 {
        u64::from(self.offset) + u64::from(self.len)
    }
}

/// Which runs are free.
#[derive(Clone, Debug)]
pub struct SlotAllocator {
    by_offset: BTreeMap<u32, u32>,
    by_len: BTreeSet<(u32, u32)>,
}

impl SlotAllocator {
    /// An array of `capacity` free slots.
    pub fn new(capacity: u32) -> SlotAllocator {
        let mut slots = SlotAllocator { by_offset: BTreeMap::new(), by_len: BTreeSet::new() };
        slots.insert(Run { offset: 0, len: capacity });
        slots
    }

    /// Takes a run of this length, if there is one. Length 0 always fits.
    pub fn allocate(&mut self, len: u32) -> Option<Run> {
        if len == 0 {
            return Some(Run::default());
        }
        let (free_len, offset) = *self.by_len.range((len, 0)..).next()?;
        self.remove(Run { offset, len: free_len });
        self.insert(Run { offset: offset + len, len: free_len - len });
        Some(Run { offset, len })
    }

    /// Takes exactly this run; false, and nothing taken, unless all of it is free.
    pub fn reserve(&mut self, run: Run) -> bool {
        if run.len == 0 {
            return true;
        }
        let Some((&offset, &len)) = self.by_offset.range(..=run.offset).next_back() else {
            return false;
        };
        let free = Run { offset, len };
        if run.end() > free.end() {
            return false;
        }
        self.remove(free);
        self.insert(Run { offset, len: run.offset - offset });
        // Both ends lie within the array, so their difference is a u32 again.
        let rest = u32::try_from(free.end() - run.end()).unwrap_or(0);
        self.insert(Run { offset: run.offset + run.len, len: rest });
        true
    }

    /// Gives back a run that was allocated or reserved.
    pub fn free(&mut self, mut run: Run) {
        if run.len == 0 {
            return;
        }
        if let Some((&offset, &len)) = self.by_offset.range(..run.offset).next_back() {
            let before = Run { offset, len };
            debug_assert!(before.end() <= u64::from(run.offset), "{run:?} freed twice");
            if before.end() == u64::from(run.offset) {
                self.remove(before);
                run = Run { offset, len: len + run.len };
            }
        }
        if let Some((&offset, &len)) = self.by_offset.range(run.offset..).next() {
            debug_assert!(run.end() <= u64::from(offset), "{run:?} freed twice");
            if run.end() == u64::from(offset) {
                self.remove(Run { offset, len });
                run.len += len;
            }
        }
        self.insert(run);
    }

    /// Number of free slots.
    pub fn available(&self) -> u64 {
        self.by_offset.values().copied().map(u64::from).sum()
    }

    fn insert(&mut self, run: Run) {
        if run.len > 0 {
            self.by_offset.insert(run.offset, run.len);
            self.by_len.insert((run.len, run.offset));
        }
    }

    fn remove(&mut self, run: Run) {
        self.by_offset.remove(&run.offset);
        self.by_len.remove(&(run.len, run.offset));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPACITY: usize = 64;

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u32),
        Reserve(u32, u32),
        Free(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..12u32).prop_map(Step::Allocate),
            (0..70u32, 0..12u32).prop_map(|(offset, len)| Step::Reserve(offset, len)),
            any::<usize>().prop_map(Step::Free),
        ]
    }

    /// Free runs of the model, as long as they get.
    fn free_runs(taken: &[bool]) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (slot, _) in taken.iter().enumerate().filter(|(_, taken)| !**taken) {
            let slot = u32::try_from(slot).expect("small");
            match runs.last_mut() {
                Some(run) if run.offset + run.len == slot => run.len += 1,
                _ => runs.push(Run { offset: slot, len: 1 }),
            }
        }
        runs
    }

    proptest! {
        /// One flag a slot says the same as the allocator, after every step.
        #[test]
        fn agrees_with_an_array_of_flags(steps in prop::collection::vec(step(), 1..80)) {
            let mut slots = SlotAllocator::new(CAPACITY as u32);
            let mut taken = [false; CAPACITY];
            let mut held: Vec<Run> = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate(len) => {
                        let fit = free_runs(&taken)
                            .into_iter()
                            .filter(|r| r.len >= len)
                            .min_by_key(|r| (r.len, r.offset));
                        let got = slots.allocate(len);
                        if len == 0 {
                            prop_assert_eq!(got, Some(Run::default()));
                            continue;
                        }
                        prop_assert_eq!(got.map(|r| r.offset), fit.map(|r| r.offset));
                        if let Some(run) = got {
                            prop_assert_eq!(run.len, len);
                            (run.offset..run.offset + len).for_each(|s| taken[s as usize] = true);
                            held.push(run);
                        }
                    }
                    Step::Reserve(offset, len) => {
                        let range = offset as usize..(offset + len) as usize;
                        let free = taken.get(range.clone()).is_some_and(|s| !s.contains(&true));
                        let got = slots.reserve(Run { offset, len });
                        prop_assert_eq!(got, free || len == 0);
                        if got && len > 0 {
                            taken[range].fill(true);
                            held.push(Run { offset, len });
                        }
                    }
                    Step::Free(which) if !held.is_empty() => {
                        let run = held.swap_remove(which % held.len());
                        taken[run.offset as usize..(run.offset + run.len) as usize].fill(false);
                        slots.free(run);
                    }
                    Step::Free(_) => {}
                }
                let runs: Vec<Run> =
                    slots.by_offset.iter().map(|(o, l)| Run { offset: *o, len: *l }).collect();
                prop_assert_eq!(&runs, &free_runs(&taken));
                prop_assert_eq!(slots.by_len.len(), runs.len());
            }
        }
    }
}
