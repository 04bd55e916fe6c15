//! Version and revision of this program. The time of the build is not included, so that equal sources give
//! equal programs.

use std::sync::LazyLock;

/// Version of Sluice.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Git revision of the sources, which `cargo xtask build` sets; `-dirty` follows it if files had changes
/// that were not committed. `unknown` in other builds, and in those without git.
pub const REVISION: &str = match option_env!("SLUICE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Version, revision and ABI version, for people.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!("{VERSION} (revision {REVISION}, ABI {})", sluice_abi::ABI_VERSION)
    });
    &TEXT
}
