//! A packet capture on one device, kept as a pcap file among the artefacts of a failed test.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::Process;

/// Bytes of the header of a pcap file.
pub const FILE_HEADER: usize = 24;
/// Bytes of the header of one packet in it.
pub const PACKET_HEADER: usize = 16;
/// Link type of a capture without link-layer headers (`LINKTYPE_RAW`).
pub const LINK_TYPE_RAW: u32 = 101;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    pub(crate) fn new(process: Process, file: PathBuf) -> Capture {
        Capture { process, file }
    }

    /// Ends the capture; returns the captured IPv4 packets.
    pub fn finish(self) -> Vec<Vec<u8>> {
        let _: usize = self.process.finish();
        let bytes = fs::read(&self.file).unwrap();
        let mut rest = &bytes[FILE_HEADER..];
        let mut packets = Vec::new();
        while rest.len() >= PACKET_HEADER {
            let length = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
            packets.push(rest[PACKET_HEADER..PACKET_HEADER + length].to_vec());
            rest = &rest[PACKET_HEADER + length..];
        }
        packets
    }

    /// Ends the capture; returns how many packets had this destination address.
    pub fn count_to(self, destination: Ipv4Addr) -> usize {
        let octets = destination.octets();
        self.finish().iter().filter(|packet| packet.get(16..20) == Some(&octets)).count()
    }
}
