//! The CNI binary against the kernel, without an agent.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]
