//! TCP resets in answer to segments (RFC 9293 section 3.5.2).

use sluice_abi::{Addr, proto};

use crate::checksum::{finish, pseudo_header_sum};
use crate::l4::TCP_CHECKSUM;
use crate::tcp_state::flag;

/// Length in bytes of a TCP header without options, and so of a reset.
pub const LEN: usize = 20;

const CHECKSUM: usize = TCP_CHECKSUM as usize;

/// Replaces the header of a segment with `payload_len` bytes of payload by the reset that answers it,
/// which is sent from `src` to `dst`. With `completed_by_device`, its checksum field is the sum of the
/// pseudo header, which the kernel completes.
#[inline(always)]
pub fn answer(
    b: &mut [u8; LEN],
    payload_len: u32,
    (src, dst): (&Addr, &Addr),
    completed_by_device: bool,
) {
    let flags = b[13];
    let ports = [b[2], b[3], b[0], b[1]];
    let (seq, ack, answer) = if flags & flag::ACK != 0 {
        ([b[8], b[9], b[10], b[11]], [0; 4], flag::RST)
    } else {
        let opens = (flags & flag::SYN != 0) as u32;
        let closes = (flags & flag::FIN != 0) as u32;
        let ack = u32::from_be_bytes([b[4], b[5], b[6], b[7]])
            .wrapping_add(payload_len)
            .wrapping_add(opens + closes);
        ([0; 4], ack.to_be_bytes(), flag::RST | flag::ACK)
    };
    let pseudo = u16::from_ne_bytes(pseudo_header_sum(src, dst, proto::TCP, LEN as u16)) as u32;
    let words = [LEN_FIELD, answer];
    let field = if completed_by_device {
        (pseudo as u16).to_ne_bytes()
    } else {
        let halves = |q: [u8; 4]| {
            u16::from_ne_bytes([q[0], q[1]]) as u32 + u16::from_ne_bytes([q[2], q[3]]) as u32
        };
        let numbers = halves(ports) + halves(seq) + halves(ack);
        finish(pseudo + numbers + u16::from_ne_bytes(words) as u32)
    };
    let mut i = 0;
    while i < 4 {
        b[i] = ports[i];
        b[4 + i] = seq[i];
        b[8 + i] = ack[i];
        b[16 + i] = 0;
        i += 1;
    }
    b[12] = words[0];
    b[13] = words[1];
    b[14] = 0;
    b[15] = 0;
    b[CHECKSUM] = field[0];
    b[CHECKSUM + 1] = field[1];
}

/// Header length in words, in the high half of its byte.
const LEN_FIELD: u8 = (LEN as u8 / 4) << 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::{fold, sum};

    fn segment(seq: u32, ack: u32, flags: u8) -> [u8; LEN] {
        let mut b = [0; LEN];
        b[..4].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        b[4..8].copy_from_slice(&seq.to_be_bytes());
        b[8..12].copy_from_slice(&ack.to_be_bytes());
        b[12] = 0x80;
        b[13] = flags;
        b
    }

    fn fields(b: &[u8; LEN]) -> (u32, u32, u8) {
        let word = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        (word(4), word(8), b[13])
    }

    const ENDS: ([u8; 4], [u8; 4]) = ([10, 96, 0, 50], [10, 244, 1, 10]);

    fn reset(received: &[u8; LEN], payload: u32) -> [u8; LEN] {
        let mut b = *received;
        answer(&mut b, payload, (&Addr::v4(ENDS.0), &Addr::v4(ENDS.1)), false);
        b
    }

    #[test]
    fn a_segment_without_ack_is_acknowledged_and_one_with_ack_gives_the_sequence_number() {
        let rst_ack = flag::RST | flag::ACK;
        assert_eq!(fields(&reset(&segment(7, 0, flag::SYN), 0)), (0, 8, rst_ack));
        assert_eq!(fields(&reset(&segment(u32::MAX, 0, flag::SYN), 0)), (0, 0, rst_ack));
        assert_eq!(fields(&reset(&segment(7, 0, flag::SYN), 100)), (0, 108, rst_ack));
        assert_eq!(fields(&reset(&segment(7, 0, flag::FIN), 3)), (0, 11, rst_ack));
        assert_eq!(fields(&reset(&segment(7, 9, flag::ACK), 3)), (9, 0, flag::RST));
    }

    #[test]
    fn a_checksum_that_the_device_completes_is_the_sum_of_the_pseudo_header() {
        let (src, dst) = (Addr::v4(ENDS.0), Addr::v4(ENDS.1));
        let mut b = segment(7, 0, flag::SYN);
        answer(&mut b, 0, (&src, &dst), true);
        assert_eq!([b[16], b[17]], pseudo_header_sum(&src, &dst, 6, 20));
    }

    proptest! {
        #[test]
        fn ports_are_exchanged_and_the_checksum_is_correct(received in any::<[u8; LEN]>()) {
            let b = reset(&received, 0);
            prop_assert_eq!(&b[..4], &[received[2], received[3], received[0], received[1]]);
            prop_assert_eq!((b[12], b[18], b[19]), (0x50, 0, 0));
            let mut pseudo = [ENDS.0, ENDS.1].concat();
            pseudo.extend([0, 6, 0, 20]);
            prop_assert_eq!(fold(sum(&pseudo) + sum(&b)), 0xffff);
        }
    }
}
