//! Machines that the programs are built for: those that Kubernetes nodes have, with little-endian
//! eBPF. One eBPF object serves them all.

use clap::ValueEnum;

/// An architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Arch {
    /// `amd64` in OCI images and Debian.
    #[value(name = "x86_64")]
    X86_64,
    /// `arm64` in OCI images and Debian.
    Aarch64,
}

impl Arch {
    /// That of this machine.
    pub const HOST: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// The name in Rust and in the kernel.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The name in the OCI image-spec, which is that of Go.
    pub fn oci(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The target of the compiler.
    pub fn triple(self) -> String {
        format!("{}-unknown-linux-gnu", self.name())
    }

    /// The C compiler of another machine, which links; the crate `cc` finds it by the same name.
    pub fn cross_compiler(self) -> String {
        format!("{}-linux-gnu-gcc", self.name())
    }

    /// Debian packages of that compiler and of the static C library.
    pub fn cross_packages(self) -> [&'static str; 2] {
        match self {
            Self::X86_64 => ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
            Self::Aarch64 => ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
        }
    }
}
