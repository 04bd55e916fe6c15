//! The error object of a failed call.

use std::error::Error;

use serde_json::{Value, json};
use sluice_bpf::error_chain;

use super::version::Version;

/// Error codes: below 100 those of the specification, from 100 on those of Sluice.
pub mod code {
    /// Sluice does not implement the configuration's `cniVersion`.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// The configuration contains a field that Sluice does not support.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container does not exist; there is nothing to clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// A file or a kernel operation failed.
    pub const IO: u32 = 5;
    /// The configuration is not a JSON object.
    pub const DECODE: u32 = 6;
    /// A field of the configuration is missing or invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// The call can succeed later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: ADD would fail.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The interface already exists.
    pub const EXISTS: u32 = 100;
    /// All addresses of the range are in use.
    pub const EXHAUSTED: u32 = 101;
    /// CHECK: something differs from what ADD created.
    pub const CHANGED: u32 = 102;
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// The object, what is wrong with it, and the causes.
    pub msg: String,
    /// The causes alone; empty if there are none.
    pub details: String,
}

impl CniError {
    /// An error without a cause.
    pub fn new(code: u32, msg: impl Into<String>) -> CniError {
        CniError { code, msg: msg.into(), details: String::new() }
    }

    /// An error with its causes. The message repeats them, because `kubectl describe pod` shows the
    /// message only.
    pub fn caused(code: u32, msg: impl Into<String>, source: &(dyn Error + 'static)) -> CniError {
        let chain = error_chain(source);
        CniError { code, msg: format!("{}: {chain}", msg.into()), details: chain }
    }

    /// The same error, with the object it concerns in front of the message.
    #[must_use]
    pub fn about(mut self, object: &str) -> CniError {
        self.msg = format!("{object}: {}", self.msg);
        self
    }

    /// The error object in `version`.
    pub fn to_json(&self, version: Version) -> Value {
        let mut json = json!({ "cniVersion": version.text(), "code": self.code, "msg": self.msg });
        if !self.details.is_empty() {
            json["details"] = json!(self.details);
        }
        json
    }
}
