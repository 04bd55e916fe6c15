//! State of one direction of a TCP connection, and the end of a connection.

use sluice_abi::tcp_state::{FIN, OPEN, RESET, SYN};

/// The flag bits of byte 13 of the TCP header (RFC 9293 section 3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgment field is valid.
    pub const ACK: u8 = 0x10;
}

/// Whether a segment with these flags opens a connection: SYN and neither ACK, FIN nor RST.
#[inline(always)]
pub const fn is_syn(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK | flag::FIN | flag::RST) == flag::SYN
}

/// Whether a segment with these flags accepts a connection: SYN and ACK, neither FIN nor RST.
#[inline(always)]
pub const fn is_syn_ack(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK | flag::FIN | flag::RST) == flag::SYN | flag::ACK
}

/// The state of a direction after a segment with these flags.
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

/// Whether exactly one side has closed the connection.
#[inline(always)]
pub const fn half_closed(here: u8, there: u8) -> bool {
    !closed(here, there) && (here == FIN || there == FIN)
}

/// Whether a connection is closed: a RST, or a FIN in both directions.
#[inline(always)]
pub const fn closed(here: u8, there: u8) -> bool {
    here == RESET || there == RESET || (here == FIN && there == FIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_follow_a_connection_from_syn_to_reset() {
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
    fn only_a_bare_syn_opens_a_connection() {
        assert!(is_syn(flag::SYN));
        assert!(is_syn(flag::SYN | 0xc0), "with ECN bits");
        assert!(!is_syn(flag::SYN | flag::ACK));
        assert!(!is_syn(flag::ACK));
        assert!(!is_syn(flag::RST));
    }
}
