//! Long steps, told as they go: what runs, for how long, and how it ended.
//!
//! A step prints one line when it starts to take long, a sign of life every ten seconds and
//! one line at its end. What the called program says goes to a log file; the end of it is
//! shown when the step fails.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
const LOG_LINES_SHOWN: usize = 25;

/// Minutes and seconds as a person writes them: `4.2s`, `1m05s`.
pub fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1}s")
    } else {
        format!("{}m{:02}s", duration.as_secs() / 60, duration.as_secs() % 60)
    }
}

/// One finished line of the report: aligned name, result, time.
pub fn line(name: &str, result: &str, took: Duration) {
    println!("  {name:<40} {result:<42} {:>7}", time(took));
    let _ = std::io::stdout().flush();
}

/// Runs `work` as a named step; its answer is what the closing line says.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
    let start = Instant::now();
    let (value, result) = work().with_context(|| format!("{name} failed"))?;
    line(name, &result, start.elapsed());
    Ok(value)
}

/// Runs a program to its end with output to a log in `logs`, showing signs of life.
///
/// # Errors
/// When the program cannot start or does not end well; the end of its log is printed.
pub fn run(name: &str, command: &mut Command, logs: &Path) -> Result<()> {
    let start = Instant::now();
    let (status, log) = run_quietly(name, command, logs)?;
    if !status.success() {
        eprintln!("{}", last_lines(&log, LOG_LINES_SHOWN));
        bail!("{name}: {} ended with {status}; its log is {}", program(command), log.display());
    }
    line(name, "done", start.elapsed());
    Ok(())
}

/// Like [`run`], but says nothing at the end and leaves the judgement to the caller.
pub fn run_quietly(
    name: &str,
    command: &mut Command,
    logs: &Path,
) -> Result<(ExitStatus, std::path::PathBuf)> {
    fs::create_dir_all(logs)?;
    let log = logs.join(format!("{}.log", name.replace(|c: char| !c.is_alphanumeric(), "-")));
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let start = Instant::now();
    let mut child =
        command.spawn().with_context(|| format!("cannot start {}", program(command)))?;
    let mut next = SIGN_OF_LIFE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, log));
        }
        if start.elapsed() >= next {
            next += SIGN_OF_LIFE;
            alive(name, start.elapsed(), &last_lines(&log, 1));
        }
        std::thread::sleep(POLL);
    }
}

/// Waits until `ready` answers something, asking every quarter second.
///
/// # Errors
/// When `deadline` has passed; the last reason that `ready` gave is part of the message.
pub fn wait<T>(
    name: &str,
    deadline: Duration,
    mut ready: impl FnMut() -> Result<T, String>,
) -> Result<T> {
    let start = Instant::now();
    let mut next = SIGN_OF_LIFE;
    loop {
        match ready() {
            Ok(value) => return Ok(value),
            Err(reason) if start.elapsed() >= deadline => {
                bail!("waited {} for {name}: {reason}", time(deadline))
            }
            Err(reason) => {
                if start.elapsed() >= next {
                    next += SIGN_OF_LIFE;
                    alive(name, start.elapsed(), &reason);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

fn alive(name: &str, elapsed: Duration, detail: &str) {
    let detail: String = detail.trim().chars().take(70).collect();
    println!(
        "  … {name}, {} so far{}{detail}",
        time(elapsed),
        if detail.is_empty() { "" } else { ": " }
    );
    let _ = std::io::stdout().flush();
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// The end of a log file; reads no more than its last 64 KiB.
pub fn last_lines(log: &Path, count: usize) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let length = file.metadata().map_or(0, |m| m.len());
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(65_536)));
        let _ = file.read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// What a program prints on stdout, trimmed.
///
/// # Errors
/// When it cannot start or does not end well; its stderr is part of the message.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        bail!("{} {}: {}", program(command), arguments.join(" "), stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether a program starts and ends well, whatever it prints.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}
