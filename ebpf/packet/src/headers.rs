//! The first bytes of a frame: link-layer and network-layer header.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute_ref};

use crate::{eth, ip};

/// Bytes of the layer 4 header in [`Headers`]: up to the flags of TCP.
pub const L4_LEN: usize = 14;

/// The first headers of a frame, as loaded, modified and stored at once.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Headers {
    /// The Ethernet header.
    pub link: eth::Header,
    /// The IP header without options.
    pub ip: ip::Header,
    /// What follows: of a packet without IP options, the first bytes of the layer 4 header. Undefined for a frame
    /// of less than [`Headers::FULL_LEN`] bytes, except the ports that [`Headers::set_ports`] has written.
    pub next: [u8; L4_LEN],
}

impl Headers {
    /// Length of the link-layer and network-layer header in bytes.
    pub const LEN: usize = size_of::<Headers>() - L4_LEN;
    /// Length with what follows, in bytes.
    pub const FULL_LEN: usize = size_of::<Headers>();
    /// Length of link-layer header, network-layer header without options, and ports, in bytes.
    pub const LEN_WITH_PORTS: usize = Headers::LEN + 4;

    /// Both hardware addresses, the receiver's first, as integers in the order of memory, to be compared by words.
    #[inline(always)]
    pub fn link_addresses(&self) -> [u32; 3] {
        let words: &[u32; Headers::FULL_LEN / 4] = transmute_ref!(self);
        [words[0], words[1], words[2]]
    }

    /// Sets source and destination port of a packet without IP options.
    #[inline(always)]
    pub fn set_ports(&mut self, ports: [u8; 4]) {
        (self.next[0], self.next[1]) = (ports[0], ports[1]);
        (self.next[2], self.next[3]) = (ports[2], ports[3]);
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    #[test]
    fn link_addresses_are_those_of_the_header_and_nothing_else() {
        let mut headers = Headers::new_zeroed();
        headers.link.set_addresses([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
        assert_eq!(headers.link_addresses().as_bytes(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let addresses = headers.link_addresses();
        headers.as_mut_bytes()[12..].fill(0xff);
        assert_eq!(headers.link_addresses(), addresses);
        for at in 0..12 {
            let mut other = headers;
            other.as_mut_bytes()[at] ^= 1;
            assert_ne!(other.link_addresses(), addresses, "byte {at}");
        }
    }
}
