//! Responses as the kernel sends them, built byte by byte.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;

use netlink_packet_core::{NLM_F_MULTIPART, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP};

use super::*;

const SEQUENCE: u32 = 7;
const RTM_NEWLINK: u16 = 16;
/// `NLM_F_ACK_TLVS`: attributes follow an error.
const ACK_TLVS: u16 = 0x200;

fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// RTM_NEWLINK of an interface without attributes.
fn link(flags: u16, index: u32) -> Vec<u8> {
    let mut payload = [0u8; 16];
    payload[4..8].copy_from_slice(&index.to_ne_bytes());
    message(RTM_NEWLINK, flags | NLM_F_MULTIPART, SEQUENCE, &payload)
}

fn done(flags: u16, code: i32) -> Vec<u8> {
    message(NLMSG_DONE, flags | NLM_F_MULTIPART, SEQUENCE, &code.to_ne_bytes())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An error whose response repeats `request`.
fn refusal(flags: u16, errno: i32, request: &[u8], attributes: &[u8]) -> Vec<u8> {
    let payload = [&(-errno).to_ne_bytes(), request, attributes].concat();
    message(NLMSG_ERROR, flags, SEQUENCE, &payload)
}

fn indexes(objects: &[RouteNetlinkMessage]) -> Vec<u32> {
    objects
        .iter()
        .map(|object| match object {
            RouteNetlinkMessage::NewLink(link) => link.header.index,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn parse(parts: &[Vec<u8>]) -> Responses {
    parse_responses(&parts.concat(), SEQUENCE).unwrap()
}

#[test]
fn objects_precede_the_end_of_a_dump() {
    let responses = parse(&[link(0, 1), link(0, 2), done(0, 0)]);
    assert_eq!(indexes(&responses.objects), [1, 2]);
    assert!(matches!(responses.end, Some(Ok(()))) && !responses.interrupted);
    let responses = parse(&[link(0, 1)]);
    assert!(responses.end.is_none(), "more datagrams follow");
    assert!(matches!(parse(&[refusal(0, 0, &[0; 16], &[])]).end, Some(Ok(()))), "acknowledged");
}

#[test]
fn a_mark_on_any_message_makes_the_dump_interrupted() {
    for parts in [
        [link(NLM_F_DUMP_INTR, 1), link(0, 2), done(0, 0)],
        [link(0, 1), link(NLM_F_DUMP_INTR, 2), done(0, 0)],
        [link(0, 1), link(0, 2), done(NLM_F_DUMP_INTR, 0)],
    ] {
        assert!(parse(&parts).interrupted);
        let mut datagrams = VecDeque::from(parts);
        let collected = collect(SEQUENCE, || Ok(datagrams.pop_front().unwrap()));
        assert!(collected.unwrap().is_none());
    }
}

#[test]
fn objects_of_several_datagrams_are_collected() {
    let mut datagrams = VecDeque::from([link(0, 1), link(0, 2), done(0, 0), link(0, 3)]);
    let objects = collect(SEQUENCE, || Ok(datagrams.pop_front().unwrap())).unwrap().unwrap();
    assert_eq!(indexes(&objects), [1, 2]);
    assert_eq!(datagrams.len(), 1, "nothing is received after the end");
    let error = collect(SEQUENCE, || Err(io::Error::from_raw_os_error(libc::ENOBUFS)));
    assert_eq!(error.unwrap_err().to_string(), "No buffer space available (os error 105)");
}

#[test]
fn a_dump_that_fails_half_way_is_an_error() {
    let mut datagrams = VecDeque::from([link(0, 1), done(0, -libc::EMSGSIZE)]);
    let error = collect(SEQUENCE, || Ok(datagrams.pop_front().unwrap())).unwrap_err();
    assert_eq!(error.to_string(), "Message too long (os error 90)");
}

#[test]
fn other_requests_and_undecodable_objects_are_skipped() {
    let short = message(RTM_NEWLINK, 0, SEQUENCE, &[0; 3]);
    let noop = message(NLMSG_NOOP, 0, SEQUENCE, &[]);
    // An earlier request that was given up, and one of another user of the socket.
    for sequence in [SEQUENCE - 1, SEQUENCE + 1] {
        let other = message(NLMSG_ERROR, 0, sequence, &(-libc::EPERM).to_ne_bytes());
        let responses = parse(&[other, short.clone(), noop.clone(), link(0, 1), done(0, 0)]);
        assert_eq!(indexes(&responses.objects), [1]);
        let other = message(RTM_NEWLINK, NLM_F_DUMP_INTR, sequence, &[0; 16]);
        assert!(!parse(&[other, done(0, 0)]).interrupted);
    }
}

#[test]
fn what_follows_the_end_is_ignored() {
    let responses = parse(&[done(0, 0), refusal(0, libc::EPERM, &[0; 16], &[]), link(0, 1)]);
    assert!(matches!(responses.end, Some(Ok(()))));
    assert!(responses.objects.is_empty());
}

#[test]
fn refusals_carry_the_extended_message() {
    let request = message(RTM_NEWLINK, 0, SEQUENCE, &[0; 21]);
    let text = attribute(ATTR_MSG, b"Device is not a veth\0");
    let cookie = attribute(3, &[1, 2, 3]);
    // An attribute of the request must not be taken for one of the response.
    let bait = message(RTM_NEWLINK, 0, SEQUENCE, &attribute(ATTR_MSG, b"bait\0"));
    for (flags, repeated) in
        [(ACK_TLVS, &request), (ACK_TLVS, &bait), (ACK_TLVS | NLM_F_CAPPED, &request[..16].into())]
    {
        for attributes in [text.clone(), [cookie.clone(), text.clone()].concat()] {
            let responses = parse(&[refusal(flags, libc::EINVAL, repeated, &attributes)]);
            let error = responses.end.unwrap().unwrap_err();
            assert_eq!(error.message(), Some("Device is not a veth"));
            let text = "Invalid argument (os error 22) (kernel: Device is not a veth)";
            assert_eq!(error.to_string(), text);
        }
        let responses = parse(&[refusal(flags, libc::EINVAL, repeated, &cookie)]);
        assert_eq!(responses.end.unwrap().unwrap_err().message(), None);
    }
    let responses = parse(&[refusal(0, libc::EINVAL, &request, &[])]);
    assert_eq!(responses.end.unwrap().unwrap_err().to_string(), "Invalid argument (os error 22)");
}

#[test]
fn malformed_datagrams_are_rejected_and_never_panic() {
    assert!(parse_responses(&[0; 15], SEQUENCE).is_err(), "shorter than a header");
    assert!(parse_responses(&[0; 16], SEQUENCE).is_err(), "length 0");
    let mut long = link(0, 1);
    long[0] = 255;
    assert!(parse_responses(&long, SEQUENCE).is_err(), "longer than the datagram");
    // Every truncation and every changed byte of a response with all parts.
    let request = message(RTM_NEWLINK, 0, SEQUENCE, &[0; 16]);
    let text = attribute(ATTR_MSG, b"text\0");
    let whole = [link(0, 1), refusal(ACK_TLVS, libc::EINVAL, &request, &text)].concat();
    for end in 0..whole.len() {
        let _ = parse_responses(&whole[..end], SEQUENCE);
        for value in [0, 1, 3, 0x7f, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[end] = value;
            let _ = parse_responses(&changed, SEQUENCE);
        }
    }
    assert!(parse(&[done(0, i32::MIN)]).end.unwrap().is_err());
}
