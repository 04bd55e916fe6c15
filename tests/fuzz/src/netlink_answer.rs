//! Datagrams of rtnetlink.
//!
//! The number of objects is bounded by the size. Bytes after the end of a request change nothing,
//! and two datagrams without an end have the objects of both.

use sluice_bpf::netlink::{Answers, parse_answers};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

pub(super) fn run(data: &[u8]) {
    // The sequence number of the first message, so that it is an answer to this request.
    let sequence = data.get(8..12).map_or(0, |b| u32::from_ne_bytes(b.try_into().unwrap()));
    check(data, sequence);
    check(data, sequence.wrapping_add(1));
}

fn check(data: &[u8], sequence: u32) {
    let Ok(answers) = parse_answers(data, sequence) else { return };
    assert!(answers.objects.len() <= data.len() / HEADER);
    let twice = parse_answers(&[data, data].concat(), sequence);
    match &answers.end {
        Some(Ok(())) => assert_eq!(text(&twice.unwrap()), text(&answers)),
        Some(Err(e)) => {
            assert_eq!(text(&twice.unwrap()), text(&answers));
            // Three bytes replace one that is not UTF-8.
            assert!(e.message().is_none_or(|message| message.len() <= 3 * data.len()));
            assert!(!e.to_string().is_empty());
        }
        None if data.len().is_multiple_of(4) => {
            let twice = twice.unwrap();
            assert_eq!(twice.objects, [answers.objects.clone(), answers.objects].concat());
            assert_eq!((twice.interrupted, twice.end.is_none()), (answers.interrupted, true));
        }
        // The padding of the last message is missing.
        None => {}
    }
}

fn text(answers: &Answers) -> String {
    format!("{answers:?}")
}
