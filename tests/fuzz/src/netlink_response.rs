//! Datagrams of rtnetlink: responses, and notifications, of which there are at most as many as
//! headers.
//!
//! The number of objects is bounded by the size. Bytes after the end of a request change nothing,
//! and two datagrams without an end have the objects of both.
//!
//! Attributes of objects get the types that Sluice reads, with any value: an object that is parsed
//! and written again has the same attributes. Other types are replaced, because netlink-packet-route
//! 0.32 panics on some of them if they are shorter than their structure, which the kernel does not
//! send.

use netlink_packet_core::NetlinkMessage;
use sluice_bpf::netlink::{Responses, parse_notifications, parse_responses};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The first type of an object; below are errors, ends and no-operations.
const FIRST_OBJECT: u16 = 16;
/// Attribute type that netlink-packet-route decodes in no object.
const UNKNOWN_ATTRIBUTE: u16 = 0x3f00;

/// A type of object.
struct Object {
    /// Length of the structure before the attributes.
    fixed: usize,
    /// Types of the attributes that Sluice reads.
    attributes: &'static [u16],
}

/// Link (address, name, MTU, alias), address (address, local), route (destination, output device,
/// gateway, table) and neighbour (destination, link-layer address).
const OBJECTS: [Object; 4] = [
    Object { fixed: 16, attributes: &[1, 3, 4, 20, UNKNOWN_ATTRIBUTE] },
    Object { fixed: 8, attributes: &[1, 2, UNKNOWN_ATTRIBUTE] },
    Object { fixed: 12, attributes: &[1, 4, 5, 15, UNKNOWN_ATTRIBUTE] },
    Object { fixed: 12, attributes: &[1, 2, UNKNOWN_ATTRIBUTE] },
];

pub(super) fn run(data: &[u8]) {
    assert!(parse_notifications(data).len() <= data.len() / HEADER);
    let data = &with_used_types(data);
    // The sequence number of the first message, so that it is a response to this request.
    let sequence = data.get(8..12).map_or(0, |b| u32::from_ne_bytes(b.try_into().unwrap()));
    check(data, sequence);
    check(data, sequence.wrapping_add(1));
}

/// The same messages, with the types of objects and attributes that Sluice uses.
fn with_used_types(data: &[u8]) -> Vec<u8> {
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
            let Object { fixed, attributes } = OBJECTS[object];
            set_attribute_types(&mut data[..end], start + HEADER + fixed, attributes);
        }
        start = start.saturating_add(length.max(HEADER).next_multiple_of(4));
    }
    data
}

/// Changes the type of each attribute from `start` on to one of `types`, its flags excluded.
fn set_attribute_types(message: &mut [u8], mut start: usize, types: &[u16]) {
    while let Some([a, b, c, d, ..]) = message.get_mut(start..) {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let kind = u16::from_ne_bytes([*c, *d]);
        let (flags, number) = (kind & 0xc000, kind & 0x3fff);
        let replaced = match types.contains(&number) {
            true => number,
            false => types[usize::from(number) % types.len()],
        };
        // The flags of an attribute that is not decoded are lost.
        let flags = if replaced == UNKNOWN_ATTRIBUTE { 0 } else { flags };
        [*c, *d] = (flags | replaced).to_ne_bytes();
        start += length.max(4).next_multiple_of(4);
    }
}

fn check(data: &[u8], sequence: u32) {
    let Ok(responses) = parse_responses(data, sequence) else { return };
    assert!(responses.objects.len() <= data.len() / HEADER);
    for object in &responses.objects {
        let mut message = NetlinkMessage::from(object.clone());
        message.header.sequence_number = sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let again = parse_responses(&bytes, sequence).expect("a written message is parsed");
        assert_eq!(again.objects, std::slice::from_ref(object));
    }
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
