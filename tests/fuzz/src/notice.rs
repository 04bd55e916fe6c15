//! The datagram that a call of the CNI binary sends to the agent.
//!
//! What parses is printed and parsed again without loss.

use sluice_pod::Notice;

pub(super) fn run(data: &[u8]) {
    let Ok(notice) = Notice::parse(data) else { return };
    let again = serde_json::to_vec(&notice).expect("a notice can be printed");
    assert_eq!(Notice::parse(&again).expect("and parsed"), notice);
}
