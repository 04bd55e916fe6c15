//! A virtual machine with another kernel, whose root is a copy-on-write view of this machine's.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::package::Kernel;
use crate::cache::{Cache, target};
use crate::process;

/// Modules that the initramfs needs to reach the root file system, and that of /dev/net/tun, which nothing else loads.
const MODULES: [&str; 5] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "tun"];
/// Longest run of one guest.
const DEADLINE: Duration = Duration::from_secs(2 * 60 * 60);
/// Processors and memory of a guest.
const SIZE: [&str; 4] = ["-smp", "2", "-m", "3G"];
/// Instructions that the test binaries may use, where the emulator replaces the processor.
const EMULATED_CPU: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand";

/// Runs in the initramfs: loads the modules of /order and changes to the root file system.
const INIT: &str = r#"#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sysfs /sys
$B mount -t devtmpfs devtmpfs /dev
while read -r module; do $B insmod "/modules/$module"; done < /order
$B mkdir -p /lower /memory
$B mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose root /lower &&
$B mount -t tmpfs -o size=2g tmpfs /memory && $B mkdir /memory/upper /memory/work &&
$B mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work overlay /root &&
$B cp /guest.sh /root/guest.sh &&
$B mount --move /proc /root/proc && $B mount --move /sys /root/sys && $B mount --move /dev /root/dev &&
exec $B switch_root /root /bin/sh /guest.sh
echo "the root file system cannot be mounted"
$B poweroff -f
"#;

/// Boots `kernel`, runs `script` as root, and returns what the console printed.
///
/// # Errors
/// When the guest does not reach the end of the script within the deadline.
pub fn boot(cache: &Cache, kernel: &Kernel, script: &str, kvm: bool) -> Result<String> {
    let folder = target().join("kernels");
    fs::create_dir_all(&folder)?;
    let initramfs = initramfs(&folder, kernel, script)?;
    let mut qemu = Command::new("qemu-system-x86_64");
    match kvm {
        true => qemu.args(["-enable-kvm", "-cpu", "host"]),
        false => qemu.args(["-accel", "tcg,thread=multi", "-cpu", EMULATED_CPU]),
    };
    qemu.args(SIZE)
        .args(["-nographic", "-no-reboot", "-net", "none", "-kernel"])
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", "console=ttyS0 panic=-1 loglevel=3"])
        .args([
            "-virtfs",
            "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
        ])
        .stdin(std::process::Stdio::null());
    let name = format!("kernel {}", kernel.version);
    let (status, log) = process::run_quietly(&name, &mut qemu, &cache.logs(), DEADLINE)?;
    let console = String::from_utf8_lossy(&fs::read(&log)?).replace('\r', "");
    if !status.success() || !console.contains(super::binaries::END) {
        eprintln!("{}", process::last_lines(&log, 25));
        bail!("{name}: the guest did not finish; console: {}", log.display());
    }
    Ok(console)
}

/// A cpio archive with busybox, the modules, [`INIT`] and the script.
fn initramfs(folder: &Path, kernel: &Kernel, script: &str) -> Result<PathBuf> {
    let tree = folder.join(format!("initramfs-{}", kernel.version));
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    for name in ["bin", "modules", "root", "proc", "sys", "dev"] {
        fs::create_dir_all(tree.join(name))?;
    }
    fs::copy("/usr/bin/busybox", tree.join("bin/busybox")).context("copy busybox")?;
    fs::write(tree.join("init"), INIT)?;
    fs::write(tree.join("guest.sh"), prologue(kernel) + script)?;
    let mut order = String::new();
    for path in module_files(kernel)? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|e| e == "xz") {
            let module = tree.join("modules").join(&name);
            let mut xz = Command::new("sh");
            xz.args(["-c", "xz -dc \"$0\" > \"$1\""]).arg(&path).arg(module);
            process::output(&mut xz)?;
            writeln!(order, "{name}")?;
        } else {
            fs::copy(&path, tree.join("modules").join(format!("{name}.ko")))?;
            writeln!(order, "{name}.ko")?;
        }
    }
    fs::write(tree.join("order"), order)?;
    let archive = tree.with_extension("cpio");
    let mut cpio = Command::new("sh");
    let pack = "chmod 755 init && find . | cpio --quiet -o -H newc > \"$0\"";
    cpio.current_dir(&tree).args(["-c", pack]).arg(&archive);
    process::output(&mut cpio)?;
    fs::remove_dir_all(&tree)?;
    Ok(archive)
}

/// Files of [`MODULES`] and their dependencies, in the order of loading.
fn module_files(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for module in MODULES {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("-d").arg(&kernel.root).args([
            "-S",
            &kernel.version,
            "--show-depends",
            module,
        ]);
        let text = process::output(&mut modprobe)?;
        for path in text.lines().filter_map(|l| l.strip_prefix("insmod ")) {
            let path = PathBuf::from(path.trim());
            if !files.contains(&path) {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// Mounts what the tests need; the modules of the kernel are on the shared root file system.
///
/// /tmp stays the machine's: the checkout may be there, and what the guest writes goes to memory.
fn prologue(kernel: &Kernel) -> String {
    let modules = kernel.root.join("lib/modules");
    format!(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n\
         mount -t tmpfs tmpfs /run\n\
         mkdir -p /lib/modules && mount --bind {} /lib/modules\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         ip link set lo up\n",
        modules.display()
    )
}
