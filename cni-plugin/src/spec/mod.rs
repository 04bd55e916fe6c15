//! The CNI specification's words: versions, configuration, environment, result, error.
//!
//! Source: <https://www.cni.dev/docs/spec/> (1.1). Nothing here touches the kernel or a file.

mod config;
mod error;
mod request;
mod result;
mod version;

pub use config::{Attachment, NetConf};
pub use error::{CniError, code};
pub use request::{Environment, Pod, Verb};
pub use result::{Interface, IpConfig, Outcome, RouteConfig};
pub use version::Version;

#[cfg(test)]
mod tests;
