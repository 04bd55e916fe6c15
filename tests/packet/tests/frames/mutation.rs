//! Frames of the corpus with random changes. proptest reduces a failing one to the changes that it needs.

use packet_tests::corpus::Frame;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::property::{HOOKS, Hook};

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// The first bytes, with all headers, of which some change: link, IP, an ICMP error and its quote.
const HEADERS: usize = 80;

#[derive(Clone, Debug)]
enum Change {
    /// Flips bits of a byte.
    Flip(Index, u8),
    Truncate(Index),
    /// Appends zeros.
    Append(usize),
}

impl Change {
    fn apply(&self, frame: &mut Vec<u8>) {
        match self {
            Change::Flip(at, bits) => {
                let at = at.index(frame.len().min(HEADERS));
                frame[at] ^= bits;
            }
            Change::Truncate(at) => frame.truncate(ETHERNET + at.index(frame.len() - ETHERNET + 1)),
            Change::Append(bytes) => frame.resize(frame.len() + bytes, 0),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (any::<Index>(), 1..=255u8).prop_map(|(at, bits)| Change::Flip(at, bits)),
        1 => any::<Index>().prop_map(Change::Truncate),
        1 => (1..20usize).prop_map(Change::Append),
    ]
}

/// A hook, a changed frame, and the payload bytes of its segments.
pub fn mutations(corpus: &[Frame]) -> impl Strategy<Value = (Hook, Vec<u8>, u32)> + use<> {
    let frames: Vec<Vec<u8>> = corpus.iter().map(|frame| frame.bytes.clone()).collect();
    let changed = (select(frames), prop::collection::vec(change(), 1..5));
    let changed = changed.prop_map(|(mut frame, changes)| {
        changes.iter().for_each(|change| change.apply(&mut frame));
        frame
    });
    (select(HOOKS.to_vec()), changed, prop_oneof![19 => Just(0), 1 => 8..1508u32])
}
