//! Responses of the kernel to one request: parsing and collecting, without a socket.

use std::io;
use std::num::NonZeroI32;

use netlink_packet_core::{
    NLM_F_CAPPED, NLM_F_DUMP_INTR, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;

use super::error::KernelError;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of the error number in `struct nlmsgerr`.
const ERRNO: usize = 4;
/// The attribute with the extended message (`NLMSGERR_ATTR_MSG`).
const ATTR_MSG: u16 = 1;

/// What one datagram, or all datagrams of one request, contain.
#[derive(Debug, Default)]
pub struct Responses {
    /// The objects, in order.
    pub objects: Vec<RouteNetlinkMessage>,
    /// A dump raced with a change (`NLM_F_DUMP_INTR`): objects can be missing.
    pub interrupted: bool,
    /// How the request ended, if it did.
    pub end: Option<Result<(), KernelError>>,
}

/// Parses one datagram; messages of requests other than `sequence` are ignored, and so are objects
/// that cannot be decoded: one object of a newer kernel must not hide the others. Messages after the
/// end of the request are ignored too.
///
/// # Errors
/// `InvalidData` if the datagram is not a sequence of netlink messages.
pub fn parse_responses(datagram: &[u8], sequence: u32) -> io::Result<Responses> {
    let mut responses = Responses::default();
    let mut rest = datagram;
    while !rest.is_empty() && responses.end.is_none() {
        let length = NetlinkBuffer::new_checked(rest)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?
            .length() as usize;
        let (message, _) = rest.split_at(length);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let Ok(response) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) else {
            continue;
        };
        if response.header.sequence_number != sequence {
            continue;
        }
        responses.interrupted |= response.header.flags & NLM_F_DUMP_INTR != 0;
        match response.payload {
            // A dump that fails half-way ends with an error number here.
            NetlinkPayload::Done(done) => responses.end = Some(outcome(done.code, None)),
            NetlinkPayload::Error(e) => {
                let code = e.code.map_or(0, NonZeroI32::get);
                responses.end = Some(outcome(code, extended_message(message)));
            }
            NetlinkPayload::InnerMessage(object) => responses.objects.push(object),
            _ => {}
        }
    }
    Ok(responses)
}

fn outcome(code: i32, message: Option<String>) -> Result<(), KernelError> {
    match code {
        0.. => Ok(()),
        _ => Err(KernelError::new(code.checked_neg().unwrap_or(i32::MAX), message)),
    }
}

/// Receives datagrams until the request ends. Returns the objects, or `None` if the dump was
/// interrupted.
pub(super) fn collect(
    sequence: u32,
    mut receive: impl FnMut() -> io::Result<Vec<u8>>,
) -> Result<Option<Vec<RouteNetlinkMessage>>, KernelError> {
    let (mut objects, mut interrupted) = (Vec::new(), false);
    loop {
        let responses = parse_responses(&receive()?, sequence)?;
        objects.extend(responses.objects);
        interrupted |= responses.interrupted;
        if let Some(end) = responses.end {
            return end.map(|()| (!interrupted).then_some(objects));
        }
    }
}

/// The text that the kernel adds to an error. It follows the request that the response repeats:
/// whole, or its header alone (`NLM_F_CAPPED`).
fn extended_message(response: &[u8]) -> Option<String> {
    let flags = u16::from_ne_bytes(response.get(6..8)?.try_into().ok()?);
    let request = response.get(HEADER + ERRNO..)?;
    let repeated = match flags & NLM_F_CAPPED {
        0 => u32::from_ne_bytes(request.get(..4)?.try_into().ok()?) as usize,
        _ => HEADER,
    };
    let mut rest = request.get(repeated.checked_next_multiple_of(4)?..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff;
        let value = rest.get(4..length)?;
        if kind == ATTR_MSG {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests;
