//! Datagrams of rtnetlink.
//!
//! The number of objects is bounded by the size. Bytes after the end of a request change nothing,
//! and two datagrams without an end have the objects of both.
//!
//! Attributes of objects get a number without a meaning: netlink-packet-route 0.32 panics on known
//! attributes that are shorter than their structure, which the kernel does not send.

use sluice_bpf::netlink::{Responses, parse_responses};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The first type of an object; below are errors, ends and no-operations.
const FIRST_OBJECT: u16 = 16;
/// Attribute type that netlink-packet-route decodes in no object.
const UNKNOWN_ATTRIBUTE: u16 = 0x3f00;
/// Length of the structure before the attributes: link, address, route, neighbor.
const FIXED: [usize; 4] = [16, 8, 12, 12];

pub(super) fn run(data: &[u8]) {
    let data = &without_known_attributes(data);
    // The sequence number of the first message, so that it is a response to this request.
    let sequence = data.get(8..12).map_or(0, |b| u32::from_ne_bytes(b.try_into().unwrap()));
    check(data, sequence);
    check(data, sequence.wrapping_add(1));
}

/// The same messages, with object types that Sluice requests and unknown attributes.
fn without_known_attributes(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    let mut start = 0;
    while let Some(&[a, b, c, d, e, f, ..]) = data.get(start..).filter(|m| m.len() >= HEADER) {
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let kind = u16::from_ne_bytes([e, f]);
        let end = start.saturating_add(length).min(data.len());
        if kind >= FIRST_OBJECT {
            let object = usize::from(kind / 4 % 4);
            let kind = FIRST_OBJECT + 4 * object as u16 + kind % 2;
            data[start + 4..start + 6].copy_from_slice(&kind.to_ne_bytes());
            clear_attribute_types(&mut data[..end], start + HEADER + FIXED[object]);
        }
        start = start.saturating_add(length.max(HEADER).next_multiple_of(4));
    }
    data
}

/// Changes the type of each attribute from `start` on, its flags excluded.
fn clear_attribute_types(message: &mut [u8], mut start: usize) {
    while let Some([a, b, c, d, ..]) = message.get_mut(start..) {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let flags = u16::from_ne_bytes([*c, *d]) & 0xc000;
        [*c, *d] = (flags | UNKNOWN_ATTRIBUTE).to_ne_bytes();
        start += length.max(4).next_multiple_of(4);
    }
}

fn check(data: &[u8], sequence: u32) {
    let Ok(responses) = parse_responses(data, sequence) else { return };
    assert!(responses.objects.len() <= data.len() / HEADER);
    let twice = parse_responses(&[data, data].concat(), sequence);
    match &responses.end {
        Some(Ok(())) => assert_eq!(text(&twice.unwrap()), text(&responses)),
        Some(Err(e)) => {
            assert_eq!(text(&twice.unwrap()), text(&responses));
            // Three bytes replace one that is not UTF-8.
            assert!(e.message().is_none_or(|message| message.len() <= 3 * data.len()));
            assert!(!e.to_string().is_empty());
        }
        None if data.len().is_multiple_of(4) => {
            let twice = twice.unwrap();
            assert_eq!(twice.objects, [responses.objects.clone(), responses.objects].concat());
            assert_eq!((twice.interrupted, twice.end.is_none()), (responses.interrupted, true));
        }
        // The padding of the last message is missing.
        None => {}
    }
}

fn text(responses: &Responses) -> String {
    format!("{responses:?}")
}
