//! Allocation of ranges of the `SLOTS` array.
//!
//! Best fit: the smallest free range that is long enough, the leftmost among equals. Adjacent free
//! ranges are merged. The allocator does not read the contents of slots.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::SlotRange;

/// The slot after the last of a range. Ranges that were read from the kernel may exceed `u32`.
pub(crate) fn end(range: SlotRange) -> u64 {
    u64::from(range.offset) + u64::from(range.len)
}

/// The free ranges, by position and by length.
#[derive(Clone, Debug)]
pub struct SlotAllocator {
    by_offset: BTreeMap<u32, u32>,
    by_len: BTreeSet<(u32, u32)>,
}

impl SlotAllocator {
    /// An array of `capacity` free slots.
    pub fn new(capacity: u32) -> SlotAllocator {
        let mut slots = SlotAllocator { by_offset: BTreeMap::new(), by_len: BTreeSet::new() };
        slots.insert(SlotRange { offset: 0, len: capacity });
        slots
    }

    /// Allocates a range of this length, if there is one. Length 0 always fits.
    pub fn allocate(&mut self, len: u32) -> Option<SlotRange> {
        if len == 0 {
            return Some(SlotRange::default());
        }
        let (free_len, offset) = *self.by_len.range((len, 0)..).next()?;
        self.remove(SlotRange { offset, len: free_len });
        self.insert(SlotRange { offset: offset + len, len: free_len - len });
        Some(SlotRange { offset, len })
    }

    /// Allocates exactly this range. Returns false and changes nothing unless all of it is free.
    pub fn reserve(&mut self, range: SlotRange) -> bool {
        if range.len == 0 {
            return true;
        }
        let Some((&offset, &len)) = self.by_offset.range(..=range.offset).next_back() else {
            return false;
        };
        let free = SlotRange { offset, len };
        if end(range) > end(free) {
            return false;
        }
        self.remove(free);
        self.insert(SlotRange { offset, len: range.offset - offset });
        // Both ends lie within the array, so their difference fits.
        let rest = u32::try_from(end(free) - end(range)).unwrap_or(0);
        self.insert(SlotRange { offset: range.offset + range.len, len: rest });
        true
    }

    /// Frees a range that was allocated or reserved.
    pub fn free(&mut self, mut range: SlotRange) {
        if range.len == 0 {
            return;
        }
        if let Some((&offset, &len)) = self.by_offset.range(..range.offset).next_back() {
            let before = SlotRange { offset, len };
            debug_assert!(end(before) <= u64::from(range.offset), "{range:?} freed twice");
            if end(before) == u64::from(range.offset) {
                self.remove(before);
                range = SlotRange { offset, len: len + range.len };
            }
        }
        if let Some((&offset, &len)) = self.by_offset.range(range.offset..).next() {
            debug_assert!(end(range) <= u64::from(offset), "{range:?} freed twice");
            if end(range) == u64::from(offset) {
                self.remove(SlotRange { offset, len });
                range.len += len;
            }
        }
        self.insert(range);
    }

    /// Number of free slots.
    pub fn available(&self) -> u64 {
        self.by_offset.values().copied().map(u64::from).sum()
    }

    fn insert(&mut self, range: SlotRange) {
        if range.len > 0 {
            self.by_offset.insert(range.offset, range.len);
            self.by_len.insert((range.len, range.offset));
        }
    }

    fn remove(&mut self, range: SlotRange) {
        self.by_offset.remove(&range.offset);
        self.by_len.remove(&(range.len, range.offset));
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

    /// Maximal free ranges of the model.
    fn free_ranges(taken: &[bool]) -> Vec<SlotRange> {
        let mut ranges: Vec<SlotRange> = Vec::new();
        for (slot, _) in taken.iter().enumerate().filter(|(_, taken)| !**taken) {
            let slot = u32::try_from(slot).expect("small");
            match ranges.last_mut() {
                Some(range) if range.offset + range.len == slot => range.len += 1,
                _ => ranges.push(SlotRange { offset: slot, len: 1 }),
            }
        }
        ranges
    }

    proptest! {
        /// The allocator equals an array with one flag per slot after every step.
        #[test]
        fn agrees_with_an_array_of_flags(steps in prop::collection::vec(step(), 1..80)) {
            let mut slots = SlotAllocator::new(CAPACITY as u32);
            let mut taken = [false; CAPACITY];
            let mut held: Vec<SlotRange> = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate(len) => {
                        let fit = free_ranges(&taken)
                            .into_iter()
                            .filter(|r| r.len >= len)
                            .min_by_key(|r| (r.len, r.offset));
                        let got = slots.allocate(len);
                        if len == 0 {
                            prop_assert_eq!(got, Some(SlotRange::default()));
                            continue;
                        }
                        prop_assert_eq!(got.map(|r| r.offset), fit.map(|r| r.offset));
                        if let Some(range) = got {
                            prop_assert_eq!(range.len, len);
                            (range.offset..range.offset + len).for_each(|s| taken[s as usize] = true);
                            held.push(range);
                        }
                    }
                    Step::Reserve(offset, len) => {
                        let range = offset as usize..(offset + len) as usize;
                        let free = taken.get(range.clone()).is_some_and(|s| !s.contains(&true));
                        let got = slots.reserve(SlotRange { offset, len });
                        prop_assert_eq!(got, free || len == 0);
                        if got && len > 0 {
                            taken[range].fill(true);
                            held.push(SlotRange { offset, len });
                        }
                    }
                    Step::Free(which) if !held.is_empty() => {
                        let range = held.swap_remove(which % held.len());
                        taken[range.offset as usize..(range.offset + range.len) as usize].fill(false);
                        slots.free(range);
                    }
                    Step::Free(_) => {}
                }
                let ranges: Vec<SlotRange> =
                    slots.by_offset.iter().map(|(o, l)| SlotRange { offset: *o, len: *l }).collect();
                prop_assert_eq!(&ranges, &free_ranges(&taken));
                prop_assert_eq!(slots.by_len.len(), ranges.len());
            }
        }
    }
}
