//! The container engine below kind: the machine's Docker, or a dockerd of our own.
//!
//! If no Docker answers, `dockerd` is started in a network and a mount namespace of its own, so
//! that its bridges, packet-filter rules and mounts do not affect the machine. Programs that
//! connect to the nodes (kind, kubectl, tests) run in the same network namespace: see
//! [`Engine::command`]. The namespaces end with dockerd. Its data directory is in the cache and
//! keeps the node image.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::{process, progress, setup};

/// Bit of CAP_SYS_RESOURCE in a capability mask (include/uapi/linux/capability.h).
const CAP_SYS_RESOURCE: u32 = 24;

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);

/// runc as it is.
const RUNC: &str = "#!/bin/sh\nexec runc \"$@\"\n";

/// runc without CAP_SYS_RESOURCE.
const RUNC_WITHOUT_SYS_RESOURCE: &str = r#"#!/bin/sh
# This machine has no CAP_SYS_RESOURCE, which --privileged requests.
previous=
for word in "$@"; do
	case $previous in
	--bundle) file=$word/config.json ;;
	--process) file=$word ;;
	*) file= ;;
	esac
	[ -n "$file" ] && sed -i 's/"CAP_SYS_RESOURCE",//g; s/,"CAP_SYS_RESOURCE"//g' "$file"
	previous=$word
done
exec runc "$@"
"#;

/// A running container engine.
pub struct Engine {
    /// `None`: the machine's own Docker.
    own: Option<Own>,
    bin: PathBuf,
}

struct Own {
    pid: u32,
    socket: PathBuf,
}

impl Engine {
    /// Returns the machine's Docker if it answers, else our own engine, which is started if it is
    /// not running.
    ///
    /// # Errors
    /// When dockerd is not installed or does not start.
    pub fn start(cache: &Cache) -> Result<Self> {
        if let Some(engine) = Self::find(cache)? {
            return Ok(engine);
        }
        let began = Instant::now();
        let engine = start_own(cache)?;
        progress::line("container engine", "dockerd in a network namespace", began.elapsed());
        Ok(engine)
    }

    /// Returns the running engine, if there is one.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn find(cache: &Cache) -> Result<Option<Self>> {
        let bin = cache.folder("bin")?;
        if setup::docker_answers() {
            return Ok(Some(Self { own: None, bin }));
        }
        let folder = cache.folder("engine")?;
        let Some(pid) = running_pid(&folder) else { return Ok(None) };
        let engine = Self { own: Some(Own { pid, socket: folder.join("docker.sock") }), bin };
        Ok(process::succeeds(engine.command("docker").arg("info")).then_some(engine))
    }

    /// Whether the engine is our own.
    pub fn is_ours(&self) -> bool {
        self.own.is_some()
    }

    /// A command in the network namespace of the nodes, with DOCKER_HOST set and the programs of
    /// the cache (kind, kubectl) on the PATH.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match &self.own {
            None => Command::new(program),
            Some(own) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/proc/{}/ns/net", own.pid)).arg("--").arg(program);
                command.env("DOCKER_HOST", format!("unix://{}", own.socket.display()));
                command
            }
        };
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.bin.display()));
        command
    }

    /// Writes the script `name`, which runs its arguments as a command where the nodes are
    /// reachable, and returns its path.
    ///
    /// # Errors
    /// When the script cannot be written.
    pub fn write_wrapper(&self, cache: &Cache, name: &str, kubeconfig: &Path) -> Result<PathBuf> {
        let path = cache.folder("bin")?.join(name);
        let mut script = format!(
            "#!/bin/sh\n# Runs a command where the cluster is reachable, for example: {name} kubectl get pods -A\n\
             export KUBECONFIG=\"${{KUBECONFIG:-{}}}\"\nexport PATH=\"{}:$PATH\"\n",
            kubeconfig.display(),
            self.bin.display()
        );
        match &self.own {
            None => script.push_str("exec \"$@\"\n"),
            Some(own) => {
                script.push_str(&format!(
                    "export DOCKER_HOST=unix://{}\nexec nsenter --net=/proc/{}/ns/net -- \"$@\"\n",
                    own.socket.display(),
                    own.pid
                ));
            }
        }
        write_program(&path, &script)?;
        Ok(path)
    }

    /// Stops our own engine and removes what it leaves on the machine.
    ///
    /// # Errors
    /// When dockerd does not end within a minute.
    pub fn stop(self, cache: &Cache) -> Result<()> {
        let Some(own) = self.own else { return Ok(()) };
        // If this process started dockerd, it remains as a zombie with an empty command line.
        let command_line = PathBuf::from(format!("/proc/{}/cmdline", own.pid));
        let ended = || fs::read(&command_line).map_or(true, |words| words.is_empty());
        process::signal("TERM", &[own.pid])?;
        progress::wait("end of dockerd", STOP, || {
            if ended() { Ok(()) } else { Err("still running".to_owned()) }
        })?;
        let folder = cache.folder("engine")?;
        for file in ["docker.pid", "docker.sock"] {
            let _ = fs::remove_file(folder.join(file));
        }
        remove_cgroups();
        Ok(())
    }
}

/// The pid in the engine's pidfile, if that process is a dockerd.
fn running_pid(folder: &Path) -> Option<u32> {
    let pid = fs::read_to_string(folder.join("docker.pid")).ok()?.trim().parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "dockerd").then_some(pid)
}

fn start_own(cache: &Cache) -> Result<Engine> {
    if !Path::new("/usr/sbin/dockerd").exists()
        && !process::succeeds(Command::new("dockerd").arg("--version"))
    {
        bail!("Docker does not answer and dockerd is not installed; run `cargo xtask setup`");
    }
    let folder = cache.folder("engine")?;
    for file in ["docker.pid", "docker.sock"] {
        let _ = fs::remove_file(folder.join(file));
    }
    let socket = folder.join("docker.sock");
    let runc = folder.join("runc");
    write_program(&runc, runtime()?)?;
    fs::create_dir_all(cache.logs())?;
    let log_path = cache.logs().join("dockerd.log");
    let log = fs::File::create(&log_path)?;

    // containerd and runc keep their state in /run.
    let script = "mount -t tmpfs tmpfs /run && ip link set lo up && exec dockerd \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c", script, "dockerd"])
        .arg(format!("--data-root={}", folder.join("data").display()))
        .arg("--exec-root=/run/sluice-engine")
        .arg(format!("--host=unix://{}", socket.display()))
        .arg(format!("--pidfile={}", folder.join("docker.pid").display()))
        .arg("--add-runtime")
        .arg(format!("sluice={}", runc.display()))
        .arg("--default-runtime=sluice")
        .arg("--oom-score-adjust=0")
        .arg("--log-level=warn")
        .env("PATH", format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // The engine keeps running after xtask ends or is interrupted.
        .process_group(0);
    let mut child = command.spawn().context("cannot start dockerd")?;
    let pid = child.id();
    let engine = Engine { own: Some(Own { pid, socket }), bin: cache.folder("bin")? };
    progress::wait("dockerd", START, || {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("exited with {status}: {}", process::last_lines(&log_path, 3)));
        }
        if process::succeeds(engine.command("docker").arg("info")) {
            Ok(())
        } else {
            Err(process::last_lines(&log_path, 1))
        }
    })
    .with_context(|| format!("dockerd does not start; log: {}", log_path.display()))?;
    Ok(engine)
}

/// The OCI runtime: `--privileged` requests every capability, and runc refuses those that are
/// not in the bounding set of this machine.
fn runtime() -> Result<&'static str> {
    let status = fs::read_to_string("/proc/self/status")?;
    let bounding = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .context("no CapBnd in /proc/self/status")?;
    let limited = bounding & (1 << CAP_SYS_RESOURCE) == 0;
    Ok(if limited { RUNC_WITHOUT_SYS_RESOURCE } else { RUNC })
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Removes Docker's parent cgroups, which remain when it ends. rmdir fails while they are used.
fn remove_cgroups() {
    let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else { return };
    for hierarchy in hierarchies.flatten() {
        let _ = fs::remove_dir(hierarchy.path().join("docker"));
    }
    let _ = fs::remove_dir("/sys/fs/cgroup/docker");
}
