//! Plays a file of steps and directives against one load of the programs.

use std::fmt::Write;
use std::path::Path;

use sluice_abi::program;

use super::directive::State;
use super::step::{Expectation, Input, Verdict};
use crate::{Datapath, Run, show};

/// A step that was played, for its duration.
struct Played {
    line: usize,
    program: &'static str,
    ifindex: u32,
    frame: Vec<u8>,
}

/// Plays the conversation in `path`.
///
/// # Panics
/// If an expectation does not hold, or the file cannot be read.
pub fn play(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let update = std::env::var_os("UPDATE").is_some();
    let datapath = Datapath::node();
    let mut state = State::default();
    let mut played = Vec::new();
    let mut written = String::new();
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let number = at + 1;
        let fail = |e: String| -> ! { panic!("{}:{number}: {e}\n  {line}", path.display()) };
        let _ = writeln!(written, "{line}");
        let content = line.split('#').next().unwrap_or_default().trim_end();
        at += 1;
        if content.is_empty() {
            continue;
        }
        let Some(input) = Input::parse(content, &state.names).unwrap_or_else(|e| fail(e)) else {
            state.directive(content, &datapath).unwrap_or_else(|e| fail(e));
            continue;
        };
        let indented = |line: &&&str| line.starts_with(' ') && !line.trim().is_empty();
        let expected: Vec<&str> = lines[at..].iter().take_while(indented).copied().collect();
        at += expected.len();
        let packet = input.spec.build(&state.variables).unwrap_or_else(|e| fail(e));
        let frame = match input.program {
            program::FROM_POD => packet.bytes_from_pod(input.ifindex),
            program::FROM_NETDEV => packet.bytes_from_wire(),
            _ => packet.bytes(),
        };
        let run = datapath.run_gso(input.program, &frame, input.ifindex, input.gso_size);
        let (program, ifindex) = (input.program, input.ifindex);
        played.push(Played { line: at - expected.len(), program, ifindex, frame });
        match check(&run, &input, &expected, &mut state) {
            Ok(()) => expected.iter().for_each(|line| {
                let _ = writeln!(written, "{line}");
            }),
            Err(Failure { lines, .. }) if update => {
                let _ = writeln!(written, "    {}\n    {}", lines[0], lines[1]);
            }
            Err(Failure { message, lines }) => fail(format!(
                "{message}\n  expected\n{}\n  got\n    {}\n    {}\n  of",
                expected.join("\n"),
                lines[0],
                lines[1],
            )),
        }
    }
    if update && written != text {
        std::fs::write(path, written).unwrap();
    }
    if std::env::var_os("TIMES").is_some() {
        print_times(path, &datapath, &played);
    }
}

struct Failure {
    message: String,
    lines: [String; 2],
}

fn check(run: &Run, input: &Input, lines: &[&str], state: &mut State) -> Result<(), Failure> {
    let expected = Expectation::parse(lines, &state.names, &input.spec);
    let like = expected.as_ref().ok().and_then(|e| e.packet.clone());
    let result = expected.and_then(|expected| compare(run, &expected, state));
    if let Err(message) = &result
        && let Err(e) = crate::Packet::read(&run.data)
    {
        eprintln!("{message}: {e} in {}", show(&run.data));
    }
    if result.is_err() {
        // The failure is reported by the caller, with what was counted.
        run.counted(&run.counters.keys().copied().collect::<Vec<_>>());
    }
    result.map_err(|message| {
        let lines =
            Expectation::describe(run, &state.names, &input.spec, like.as_ref(), &state.variables);
        Failure { message, lines }
    })
}

fn compare(run: &Run, expected: &Expectation, state: &mut State) -> Result<(), String> {
    if Verdict::of(run) != expected.verdict {
        return Err("another verdict".to_owned());
    }
    let mut counted: Vec<_> = run.counters.keys().copied().collect();
    let mut labels = expected.counters.clone();
    counted.sort_unstable();
    labels.sort_unstable();
    if counted != labels {
        return Err("other counters".to_owned());
    }
    run.counted(&labels);
    let Some(spec) = &expected.packet else {
        return if run.data == run.frame { Ok(()) } else { Err("the packet changed".to_owned()) };
    };
    let packet = crate::Packet::read(&run.data)?;
    let known = state.variables.clone();
    spec.capture(&packet.body, &mut state.variables);
    for (name, value) in &state.variables {
        let (min, max) = state.snat_ports;
        if !known.contains_key(name) && !(min..=max).contains(value) {
            return Err(format!("{{{name}}} is {value}, not within {min}-{max}"));
        }
    }
    let (dst, src) = expected.verdict.macs(&run.frame);
    let frame = spec.build(&state.variables)?.frame(dst, src);
    if frame == run.data {
        Ok(())
    } else {
        Err(format!(
            "another packet; expected bytes {}\n  got bytes {}",
            show(&frame),
            show(&run.data)
        ))
    }
}

/// Prints the duration of each step, with the flows that the conversation left behind.
fn print_times(path: &Path, datapath: &Datapath, played: &[Played]) {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    for step in played {
        let time = datapath.time(step.program, &step.frame, step.ifindex);
        println!("{:>6} ns  {name}:{} {}", time.as_nanos(), step.line, step.program);
    }
}
