//! The container engine that kind runs on: the machine's Docker, or one of our own.
//!
//! Where no Docker answers, `dockerd` is started in a network namespace and a mount namespace
//! of its own: its bridges, packet-filter rules and mounts touch nothing of the machine. What
//! talks to the nodes (kind, kubectl, tests) then runs inside that network namespace, which
//! [`Engine::command`] sees to. The namespaces live as long as dockerd does: when it ends,
//! nothing is left of them. Its data stay in the cache, so that a loaded node image survives.

use crate::cache::Cache;
use crate::progress;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A container engine that answers.
pub struct Engine {
    /// `None`: the machine's own Docker.
    own: Option<Own>,
    bin: PathBuf,
}

struct Own {
    pid: u32,
    socket: PathBuf,
}

/// Bit of CAP_SYS_RESOURCE in a capability mask (include/uapi/linux/capability.h).
const CAP_SYS_RESOURCE: u32 = 24;

impl Engine {
    /// The machine's Docker if it answers, else our own engine, started when it is not running.
    pub fn start(cache: &Cache) -> Result<Self> {
        if let Some(engine) = Self::find(cache)? {
            return Ok(engine);
        }
        let began = Instant::now();
        let engine = start_own(cache)?;
        progress::line("container engine", "our own dockerd, in its own network", began.elapsed());
        Ok(engine)
    }

    /// The engine that answers now, if any does.
    pub fn find(cache: &Cache) -> Result<Option<Self>> {
        let bin = cache.room("bin")?;
        if progress::succeeds(Command::new("docker").arg("info")) {
            return Ok(Some(Self { own: None, bin }));
        }
        let room = cache.room("engine")?;
        let Some(pid) = running_pid(&room) else { return Ok(None) };
        let engine = Self { own: Some(Own { pid, socket: room.join("docker.sock") }), bin };
        Ok(progress::succeeds(engine.command("docker").arg("info")).then_some(engine))
    }

    /// Whether the engine is one that we started.
    pub fn is_ours(&self) -> bool {
        self.own.is_some()
    }

    /// A command that reaches the engine and the nodes: in their network namespace, with
    /// DOCKER_HOST set and the cache's own programs (kind, kubectl) found.
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

    /// Writes a script called `name`, which a person puts before a command to run it where the
    /// nodes are reachable, and tells its path.
    pub fn write_wrapper(&self, cache: &Cache, name: &str, kubeconfig: &Path) -> Result<PathBuf> {
        let path = cache.room("bin")?.join(name);
        let mut script = format!(
            "#!/bin/sh\n# Runs a command where the cluster is reachable: {name} kubectl get pods -A\n\
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

    /// Stops the engine if it is ours, and takes away what it left on the machine.
    pub fn stop(self, cache: &Cache) -> Result<()> {
        let Some(own) = self.own else { return Ok(()) };
        // Where this very process started it, it stays behind as a zombie, whose command line is
        // empty.
        let command_line = PathBuf::from(format!("/proc/{}/cmdline", own.pid));
        let ended = || fs::read(&command_line).map_or(true, |words| words.is_empty());
        signal(own.pid, "TERM")?;
        progress::wait("the engine to end", Duration::from_secs(60), || {
            if ended() { Ok(()) } else { Err("it still runs".to_owned()) }
        })?;
        let room = cache.room("engine")?;
        for file in ["docker.pid", "docker.sock"] {
            let _ = fs::remove_file(room.join(file));
        }
        remove_cgroups();
        Ok(())
    }
}

/// The pid in the engine's pidfile, if that process is (still) a dockerd.
fn running_pid(room: &Path) -> Option<u32> {
    let pid = fs::read_to_string(room.join("docker.pid")).ok()?.trim().parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "dockerd").then_some(pid)
}

fn start_own(cache: &Cache) -> Result<Engine> {
    if !Path::new("/usr/sbin/dockerd").exists()
        && !progress::succeeds(Command::new("dockerd").arg("--version"))
    {
        bail!("no Docker answers and dockerd is not installed; run `cargo xtask setup`");
    }
    let room = cache.room("engine")?;
    for file in ["docker.pid", "docker.sock"] {
        let _ = fs::remove_file(room.join(file));
    }
    let socket = room.join("docker.sock");
    let runtime = room.join("runc");
    write_program(&runtime, &runc_wrapper()?)?;
    fs::create_dir_all(cache.logs())?;
    let log_path = cache.logs().join("dockerd.log");
    let log = fs::File::create(&log_path)?;

    // A fresh tmpfs on /run: containerd and runc keep their state there.
    let script = "mount -t tmpfs tmpfs /run && ip link set lo up && exec dockerd \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c", script, "dockerd"])
        .arg(format!("--data-root={}", room.join("data").display()))
        .arg("--exec-root=/run/sluice-engine")
        .arg(format!("--host=unix://{}", socket.display()))
        .arg(format!("--pidfile={}", room.join("docker.pid").display()))
        .arg("--add-runtime")
        .arg(format!("sluice={}", runtime.display()))
        .arg("--default-runtime=sluice")
        .arg("--oom-score-adjust=0")
        .arg("--log-level=warn")
        .env("PATH", format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // The engine outlives xtask and a Ctrl-C meant for it.
        .process_group(0);
    let mut child = command.spawn().context("cannot start dockerd")?;
    let pid = child.id();
    let engine = Engine { own: Some(Own { pid, socket }), bin: cache.room("bin")? };
    progress::wait("dockerd to answer", Duration::from_secs(60), || {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("it ended with {status}: {}", progress::last_lines(&log_path, 3)));
        }
        if progress::succeeds(engine.command("docker").arg("info")) {
            Ok(())
        } else {
            Err(progress::last_lines(&log_path, 1))
        }
    })
    .with_context(|| format!("dockerd does not come up; its log is {}", log_path.display()))?;
    Ok(engine)
}

/// runc, told to do without CAP_SYS_RESOURCE where the machine itself does not have it:
/// `--privileged` asks for every capability, and runc refuses what it cannot give.
fn runc_wrapper() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let bounding = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .context("/proc/self/status shows no CapBnd")?;
    if bounding & (1 << CAP_SYS_RESOURCE) != 0 {
        return Ok("#!/bin/sh\nexec runc \"$@\"\n".to_owned());
    }
    Ok(r#"#!/bin/sh
# This machine cannot give CAP_SYS_RESOURCE; --privileged asks for it all the same.
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
"#
    .to_owned())
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn signal(pid: u32, name: &str) -> Result<()> {
    let ended = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status()?;
    anyhow::ensure!(ended.success(), "cannot signal process {pid}");
    Ok(())
}

/// Docker leaves its empty parent cgroups behind; rmdir takes only what is empty.
fn remove_cgroups() {
    let Ok(hierarchies) = fs::read_dir("/sys/fs/cgroup") else { return };
    for hierarchy in hierarchies.flatten() {
        let _ = fs::remove_dir(hierarchy.path().join("docker"));
    }
    let _ = fs::remove_dir("/sys/fs/cgroup/docker");
}
