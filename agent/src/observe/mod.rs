//! What others may ask the agent: is it well (/healthz, /livez, /readyz), what did it count
//! (/metrics). Knows only [`Health`], which the event loop writes, and the counters in the kernel.

mod health;
mod http;
mod metrics;

pub use health::{Health, Pending};
pub use http::serve;
pub use metrics::render;
