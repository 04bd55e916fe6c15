//! Conversations as text: packets at hooks, with the verdict, the packet that comes out, and the
//! counters that move. The steps of a file share one load of the programs and its maps.
//!
//! ```text
//! # A comment draws the case.
//! service vip:53/udp -> server:5353
//!
//! from_pod client  udp client:40000 > vip:53 len 20
//!     to_pod server  udp client:40000 > server:5353
//!     counters  translated to_pod
//! ```
//!
//! A step is a hook, the pod of its device (`gso N`: the kernel cuts the packet into segments of N
//! payload bytes), a packet (see `notation.rs`), and two indented lines of expectations. Lines
//! between steps are directives (see `directive.rs`). The packet that comes out inherits everything
//! that its line does not mention from the packet that went in, with the TTL and the hardware
//! addresses that the verdict implies, and is compared byte by byte, checksums included. `{p}`
//! captures a port or identifier that the programs choose, checks that it is in the configured
//! range, and represents it in the following lines.
//!
//! `UPDATE=1` rewrites expectations that do not hold; `TIMES=1` prints the duration of each step.

mod directive;
mod matching;
mod notation;
mod player;
mod step;
mod words;

pub use player::play;
