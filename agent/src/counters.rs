//! Counters of the programs as the API, metrics and the command line show them.

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Count {
    /// `drop` or `outcome`.
    pub kind: String,
    /// Label of the reason or outcome.
    pub label: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}
