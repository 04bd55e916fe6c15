//! Which drops of an agent are new, and how many are missing among them.

use std::collections::BTreeMap;
use std::mem;

use crate::api::{DropRow, DropsEnd};
use crate::counters::Count;

/// The last drop of an agent that was shown.
#[derive(Debug, Default)]
pub struct Position(Option<Last>);

#[derive(Debug)]
struct Last {
    /// [`DropRow::first_sequence`]: the agent has started again when it differs.
    first: Option<u64>,
    sequence: u64,
}

impl Position {
    /// Number from which drops are asked for.
    pub fn next(&self) -> u64 {
        self.0.as_ref().map_or(0, |last| last.sequence + 1)
    }

    /// Whether no drop was shown.
    pub fn is_new(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the agent whose first drop has this number, if it has one, has started after the last drop that was
    /// shown: its numbers may be smaller.
    pub fn is_of_former_agent(&self, first: Option<u64>) -> bool {
        first.is_some() && self.0.as_ref().is_some_and(|last| last.first != first)
    }

    /// Takes a drop. `None`: it was shown before. Otherwise, how many are missing before it, because the agent
    /// keeps only the last ones; 0 for the first one, and if the agent does not say where its numbers begin.
    pub fn take(&mut self, row: &DropRow) -> Option<u64> {
        let DropRow { sequence, first_sequence: first, .. } = *row;
        let last = self.0.replace(Last { first, sequence });
        let Some(last) = last else { return Some(0) };
        if last.first != first {
            // What the former agent had not shown is not known.
            return Some(first.map_or(0, |first| sequence.saturating_sub(first)));
        }
        if sequence <= last.sequence {
            self.0 = Some(last);
            return None;
        }
        Some(first.map_or(0, |_| sequence - last.sequence - 1))
    }
}

/// The numbers of lost events by reason, as far as they are known.
#[derive(Debug, Default)]
pub struct LostEvents {
    /// [`DropsEnd::first_sequence`] of the last response.
    first: Option<u64>,
    numbers: BTreeMap<String, u64>,
}

impl LostEvents {
    /// Takes the numbers of a response; returns how many events were lost since the last number of each reason,
    /// 0 for the first one. A reason that the agent could not read keeps its last number.
    pub fn take(&mut self, response: DropsEnd) -> u64 {
        let former = mem::replace(&mut self.first, response.first_sequence);
        if former.is_some() && former != self.first {
            // The agent has started again. Its own number began at 0; those of the maps go on.
            self.numbers.insert(Count::NOT_EXAMINED.to_owned(), 0);
        }
        let more = |(reason, number): (String, u64)| match self.numbers.insert(reason, number) {
            // A smaller number was counted from 0: the agent or the maps are new.
            Some(known) => number.checked_sub(known).unwrap_or(number),
            None => 0,
        };
        response.lost_events.into_iter().map(more).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(first_sequence: Option<u64>, sequence: u64) -> DropRow {
        DropRow { first_sequence, sequence, ..super::super::print::tests::row() }
    }

    /// What each of these drops is, by the first number of its agent and its own.
    fn found(drops: &[(Option<u64>, u64)]) -> Vec<Option<u64>> {
        let mut position = Position::default();
        drops.iter().map(|&(first, sequence)| position.take(&row(first, sequence))).collect()
    }

    #[test]
    fn drop_is_new_once_and_a_gap_before_it_is_missing() {
        let of_one = |numbers: &[u64]| -> Vec<_> {
            found(&numbers.iter().map(|number| (Some(5), *number)).collect::<Vec<_>>())
        };
        assert_eq!(
            of_one(&[9, 10, 11]),
            [Some(0); 3],
            "those before the first one were not asked for"
        );
        assert_eq!(of_one(&[9, 20, 21]), [Some(0), Some(10), Some(0)]);
        assert_eq!(of_one(&[9, 10, 9, 10, 11]), [Some(0), Some(0), None, None, Some(0)]);
    }

    #[test]
    fn numbers_that_begin_again_are_no_gap() {
        let begins_at = |first| [(Some(5), 9), (Some(first), first), (Some(first), first + 3)];
        assert_eq!(found(&begins_at(1000)), [Some(0), Some(0), Some(2)]);
        assert_eq!(found(&begins_at(2)), [Some(0), Some(0), Some(2)], "the clock was set back");
        // The new agent has kept only its last drops.
        assert_eq!(found(&[(Some(5), 9), (Some(1000), 1007)]), [Some(0), Some(7)]);
    }

    #[test]
    fn gap_of_an_agent_of_a_former_version_is_not_known() {
        assert_eq!(found(&[(None, 9), (None, 1000), (None, 9)]), [Some(0), Some(0), None]);
        assert_eq!(found(&[(None, 9), (Some(1000), 1001)]), [Some(0), Some(1)], "an upgrade");
        assert_eq!(found(&[(Some(5), 9), (None, 1000)]), [Some(0), Some(0)], "a downgrade");
    }

    fn taken(responses: &[&[(&str, u64)]]) -> Vec<u64> {
        let of_one_agent: Vec<_> = responses.iter().map(|numbers| (None, *numbers)).collect();
        taken_of_agents(&of_one_agent)
    }

    /// The first number of an agent, and its numbers of lost events.
    type Numbers<'a> = (Option<u64>, &'a [(&'a str, u64)]);

    /// How many were lost before each response.
    fn taken_of_agents(responses: &[Numbers]) -> Vec<u64> {
        let mut known = LostEvents::default();
        let taken = responses.iter().map(|&(first_sequence, numbers)| {
            let lost_events = numbers.iter().map(|&(reason, n)| (reason.to_owned(), n)).collect();
            known.take(DropsEnd { first_sequence, lost_events })
        });
        taken.collect()
    }

    #[test]
    fn numbers_of_all_reasons_are_added() {
        let first: &[_] = &[("not_examined", 3), ("rate_limit", 1000)];
        let second: &[_] = &[("not_examined", 5), ("rate_limit", 1010)];
        assert_eq!(taken(&[first, second, second]), [0, 12, 0]);
    }

    #[test]
    fn reason_that_a_response_lacks_keeps_its_number() {
        let both: &[_] = &[("not_examined", 3), ("rate_limit", 1000)];
        let one: &[_] = &[("not_examined", 4)];
        let later: &[_] = &[("not_examined", 4), ("rate_limit", 1002)];
        assert_eq!(taken(&[both, one, later]), [0, 1, 2]);
        assert_eq!(taken(&[one, both]), [0, 3], "what was lost before is not known");
        assert_eq!(taken(&[both, &[], both]), [0; 3], "an agent of a former version");
    }

    #[test]
    fn number_of_an_agent_that_started_again_is_counted_from_zero_and_those_of_the_maps_go_on() {
        let former: &[_] = &[("not_examined", 3), ("rate_limit", 1000)];
        let new: &[_] = &[("not_examined", 5), ("rate_limit", 1010)];
        let taken =
            |first, second| taken_of_agents(&[(first, former), (second, new), (second, new)]);
        assert_eq!(taken(Some(100), Some(900)), [0, 15, 0]);
        assert_eq!(taken(Some(100), Some(20)), [0, 15, 0], "the clock was set back");
        assert_eq!(taken(Some(100), Some(100)), [0, 12, 0], "the same agent");
        assert_eq!(taken(None, Some(100)), [0, 12, 0], "its first drop");
        // The new agent has no drop at first.
        let later: &[_] = &[("not_examined", 7), ("rate_limit", 1010)];
        let responses = [(Some(100), former), (None, new), (Some(900), later)];
        assert_eq!(taken_of_agents(&responses), [0, 15, 2]);
    }

    #[test]
    fn number_that_begins_again_is_counted_from_zero() {
        let numbers = [1000, 2, 3].map(|number| [("not_examined", number)]);
        assert_eq!(taken(&numbers.each_ref().map(|response| &response[..])), [0, 2, 1]);
    }
}
