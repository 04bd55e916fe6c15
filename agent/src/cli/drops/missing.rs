//! How many drops are missing among those that an agent shows.

use std::collections::BTreeMap;

/// The numbers of lost events by reason, as far as they are known.
#[derive(Debug, Default)]
pub struct LostEvents(BTreeMap<String, u64>);

impl LostEvents {
    /// Takes the numbers of a response; returns how many events were lost since the last number of each reason,
    /// 0 for the first one. A reason that the agent could not read keeps its last number.
    pub fn take(&mut self, numbers: BTreeMap<String, u64>) -> u64 {
        let more = |(reason, number): (String, u64)| match self.0.insert(reason, number) {
            // A smaller number was counted from 0: the agent or the maps are new.
            Some(known) => number.checked_sub(known).unwrap_or(number),
            None => 0,
        };
        numbers.into_iter().map(more).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(responses: &[&[(&str, u64)]]) -> Vec<u64> {
        let mut known = LostEvents::default();
        let numbers = |response: &&[_]| {
            response.iter().map(|&(k, n): &(&str, u64)| (k.to_owned(), n)).collect()
        };
        responses.iter().map(|response| known.take(numbers(response))).collect()
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
    fn number_that_begins_again_is_counted_from_zero() {
        let numbers = [1000, 2, 3].map(|number| [("not_examined", number)]);
        assert_eq!(taken(&numbers.each_ref().map(|response| &response[..])), [0, 2, 1]);
    }
}
