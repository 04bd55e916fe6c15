//! What one direction of a TCP connection has said, and when a connection is over.

use sluice_abi::tcp_state::{FIN, OPEN, RESET, SYN};

/// The flag bits of byte 13 of the TCP header (RFC 9293 section 3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// Whether these flags open a connection: SYN and neither ACK, FIN nor RST.
#[inline(always)]
pub const fn opens(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK | flag::FIN | flag::RST) == flag::SYN
}

/// The state of a direction after one more of its segments.
#[inline(always)]
pub const fn step(state: u8, flags: u8) -> u8 {
    if flags & flag::RST != 0 || state == RESET {
        RESET
    } else if flags & flag::FIN != 0 || state == FIN {
        FIN
    } else if flags & flag::SYN != 0 && state <= SYN {
        SYN
    } else {
        OPEN
    }
}

/// Whether nothing more can come: a reset, or a FIN from both sides.
#[inline(always)]
pub const fn closed(here: u8, there: u8) -> bool {
    here == RESET || there == RESET || (here == FIN && there == FIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_from_syn_to_fin() {
        let mut s = 0;
        for (flags, then) in [
            (flag::SYN, SYN),
            (flag::SYN, SYN),
            (flag::ACK, OPEN),
            (flag::FIN | flag::ACK, FIN),
            (flag::ACK, FIN),
        ] {
            s = step(s, flags);
            assert_eq!(s, then);
        }
        assert!(!closed(s, OPEN), "half closed is open");
        assert!(closed(s, FIN));
        assert_eq!(step(s, flag::RST), RESET);
        assert!(closed(OPEN, RESET));
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(opens(flag::SYN));
        assert!(opens(flag::SYN | 0xc0), "with ECN bits");
        assert!(!opens(flag::SYN | flag::ACK));
        assert!(!opens(flag::ACK));
        assert!(!opens(flag::RST));
    }
}
