//! The types of the CNI specification: versions, configuration, environment, result, error.
//!
//! Source: <https://www.cni.dev/docs/spec/> (1.1). Nothing here accesses the kernel or a file.

mod config;
mod error;
mod request;
mod result;
mod version;

pub use config::{Attachment, NetConf};
pub use error::{CniError, code};
pub use request::{Environment, Pod, Verb};
pub use result::{CniResult, Interface, IpConfig, RouteConfig};
pub use version::Version;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::golden;
