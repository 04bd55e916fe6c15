//! What a failed call says.

use std::error::Error;

use serde_json::{Value, json};
use sluice_bpf::error_chain;

/// Error codes: below 100 the specification's, from 100 ours.
pub mod code {
    /// The configuration's `cniVersion` is not one we speak.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// The configuration asks for something we don't do.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container does not exist; nothing has to be cleaned up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or nonsense.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Disk or kernel failed.
    pub const IO: u32 = 5;
    /// The configuration is no JSON.
    pub const DECODE: u32 = 6;
    /// The configuration is JSON, but makes no sense.
    pub const INVALID_CONFIG: u32 = 7;
    /// Works later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: ADD would not work now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The interface exists already.
    pub const EXISTS: u32 = 100;
    /// No address is left.
    pub const EXHAUSTED: u32 = 101;
    /// CHECK found something other than what ADD made.
    pub const CHANGED: u32 = 102;
}

/// A failed call: number, one sentence, and what lies beneath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// Which object, and what is wrong with it.
    pub msg: String,
    /// The chain of causes.
    pub details: String,
}

impl CniError {
    /// An error without a deeper cause.
    pub fn new(code: u32, msg: impl Into<String>) -> CniError {
        CniError { code, msg: msg.into(), details: String::new() }
    }

    /// An error with its causes, which also stand in the message: it is often all that a person
    /// gets to see (`kubectl describe pod`).
    pub fn caused(code: u32, msg: impl Into<String>, source: &(dyn Error + 'static)) -> CniError {
        let chain = error_chain(source);
        CniError { code, msg: format!("{}: {chain}", msg.into()), details: chain }
    }

    /// The same error with who it is about in front.
    #[must_use]
    pub fn about(mut self, whom: &str) -> CniError {
        self.msg = format!("{whom}: {}", self.msg);
        self
    }

    /// What goes to stdout.
    pub fn to_json(&self, version: &str) -> Value {
        let mut json = json!({ "cniVersion": version, "code": self.code, "msg": self.msg });
        if !self.details.is_empty() {
            json["details"] = json!(self.details);
        }
        json
    }
}
