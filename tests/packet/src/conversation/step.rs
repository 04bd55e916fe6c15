//! One step: a packet at a hook, and what is expected of it.

use sluice_abi::{DropReason, Outcome, program, proto};

use super::notation::{Kind, Spec, Variables};
use super::words::{Names, Words, number};
use crate::topology::{HOST_MAC, pod_mac};
use crate::{Action, CLIENT, CLIENT_IFINDEX, Run, SERVER, SERVER_IFINDEX, UPLINK_IFINDEX};

/// The packet that goes in.
pub struct Input {
    /// Name of the program.
    pub program: &'static str,
    /// Interface index of the device.
    pub ifindex: u32,
    /// Payload bytes of the segments that the kernel cuts the packet into, or 0.
    pub gso_size: u32,
    /// The packet.
    pub spec: Spec,
}

/// What a program decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not counted, next program.
    Pass,
    /// Next program.
    ToStack,
    /// Redirected into this pod.
    ToPod([u8; 4]),
    /// Redirected to the uplink.
    ToUplink,
    /// Dropped for the reason with this label.
    Drop(&'static str),
    /// Answered with an ICMP error for the reason with this label.
    Reject(&'static str),
    /// Answered with a TCP reset for the reason with this label.
    Reset(&'static str),
    /// Queued again at the same hook.
    Requeue,
    /// Nothing that a program may decide.
    Invalid(Action),
}

/// What is expected of a step.
pub struct Expectation {
    /// Verdict.
    pub verdict: Verdict,
    /// The packet that comes out; `None`: the frame is unchanged.
    pub packet: Option<Spec>,
    /// Labels of the counters that move.
    pub counters: Vec<&'static str>,
}

impl Input {
    /// Parses the line of a step, if it is one.
    pub fn parse(line: &str, names: &Names) -> Result<Option<Input>, String> {
        let mut words = Words::new(line);
        let program = match words.next()? {
            "from_pod" => program::FROM_POD,
            "to_pod" => program::TO_POD,
            "from_netdev" => program::FROM_NETDEV,
            "to_netdev" => program::TO_NETDEV,
            _ => return Ok(None),
        };
        let ifindex = if [program::FROM_POD, program::TO_POD].contains(&program) {
            match words.next()? {
                "client" => CLIENT_IFINDEX,
                "server" => SERVER_IFINDEX,
                other => return Err(format!("{other:?} is not a pod of this node")),
            }
        } else {
            UPLINK_IFINDEX
        };
        let gso_size = if words.take("gso") { number(words.next()?)? } else { 0 };
        let spec = Spec::parse(&mut words, names, None)?;
        Ok(Some(Input { program, ifindex, gso_size, spec }))
    }
}

impl Verdict {
    /// The verdict of a run, from its action and counters.
    pub fn of(run: &Run) -> Verdict {
        let counted = |outcome: Outcome| run.counters.contains_key(outcome.label());
        let reason = DropReason::ALL.iter().find(|r| run.counters.contains_key(r.label()));
        match (run.action, reason) {
            (Action::Drop, Some(reason)) => Verdict::Drop(reason.label()),
            (Action::Redirect, Some(reason)) if run.data.get(23) == Some(&proto::TCP) => {
                Verdict::Reset(reason.label())
            }
            (Action::Redirect, Some(reason)) => Verdict::Reject(reason.label()),
            (Action::Redirect, None) if counted(Outcome::ToPod) => {
                let pods = [CLIENT, SERVER];
                let pod = pods.into_iter().find(|pod| run.data[..6] == pod_mac(*pod));
                Verdict::ToPod(pod.unwrap_or([0; 4]))
            }
            (Action::Redirect, None) if counted(Outcome::ToUplink) => Verdict::ToUplink,
            (Action::Redirect, None) => Verdict::Requeue,
            (Action::Next, None) if counted(Outcome::ToStack) => Verdict::ToStack,
            (Action::Next, None) => Verdict::Pass,
            (action, _) => Verdict::Invalid(action),
        }
    }

    fn parse(words: &mut Words<'_>, names: &Names) -> Result<Verdict, String> {
        let reason = |text: &str| {
            let found = DropReason::ALL.iter().find(|r| r.label() == text);
            found.map(|r| r.label()).ok_or_else(|| format!("no drop reason {text:?}"))
        };
        Ok(match words.next()? {
            "pass" => Verdict::Pass,
            "to_stack" => Verdict::ToStack,
            "to_pod" => Verdict::ToPod(names.address(words.next()?)?),
            "to_uplink" => Verdict::ToUplink,
            "drop" => Verdict::Drop(reason(words.next()?)?),
            "reject" => Verdict::Reject(reason(words.next()?)?),
            "reset" => Verdict::Reset(reason(words.next()?)?),
            "requeue" => Verdict::Requeue,
            other => return Err(format!("no verdict {other:?}")),
        })
    }

    fn text(&self, names: &Names) -> String {
        match self {
            Verdict::Pass => "pass".to_owned(),
            Verdict::ToStack => "to_stack".to_owned(),
            Verdict::ToPod(pod) => format!("to_pod {}", names.name(*pod)),
            Verdict::ToUplink => "to_uplink".to_owned(),
            Verdict::Drop(reason) => format!("drop {reason}"),
            Verdict::Reject(reason) => format!("reject {reason}"),
            Verdict::Reset(reason) => format!("reset {reason}"),
            Verdict::Requeue => "requeue".to_owned(),
            Verdict::Invalid(action) => format!("invalid {action:?}"),
        }
    }

    /// The packet that comes out where its line mentions nothing.
    pub fn base(&self, input: &Spec) -> Spec {
        let mut base = input.clone();
        match self {
            Verdict::ToPod(_) | Verdict::ToUplink => base.ttl = input.ttl.saturating_sub(1).max(1),
            Verdict::Reject(_) => {
                base = Spec::new(Kind::Error(3, 3, 0));
                // The fixed fields of the header that the programs write.
                (base.ttl, base.tos, base.ip_id, base.dont_fragment) = (64, 0xc0, 0, true);
                base.quote = match input.kind {
                    Kind::Tcp => 20,
                    Kind::Sctp => 12,
                    _ => 8,
                };
                base.about = Some(Box::new(input.clone()));
            }
            Verdict::Reset(_) => {
                base = Spec::new(Kind::Tcp);
                (base.ip_id, base.dont_fragment) = (0, true);
                // The segments of the notation have the sequence number 1 and acknowledge 0.
                let opens_and_closes = (input.flags & 3).count_ones();
                if input.flags & 16 == 0 {
                    base.flags = 4 | 16;
                    base.reset = Some((0, 1 + input.len as u32 + opens_and_closes));
                } else {
                    (base.flags, base.reset) = (4, Some((0, 0)));
                }
            }
            _ => {}
        }
        base
    }

    /// Destination and source hardware address of the frame that comes out.
    pub fn macs(&self, frame: &[u8]) -> ([u8; 6], [u8; 6]) {
        let mac = |at: usize| std::array::from_fn(|n| frame[at + n]);
        match self {
            Verdict::ToPod(pod) => (pod_mac(*pod), HOST_MAC),
            Verdict::Reject(_) | Verdict::Reset(_) => (mac(6), mac(0)),
            _ => (mac(0), mac(6)),
        }
    }
}

impl Expectation {
    /// Parses the indented lines of a step.
    pub fn parse(lines: &[&str], names: &Names, input: &Spec) -> Result<Expectation, String> {
        let [verdict, counters] = lines else {
            return Err("a step has a verdict line and a counters line".to_owned());
        };
        let mut words = Words::new(verdict);
        let verdict = Verdict::parse(&mut words, names)?;
        let packet = if words.is_empty() {
            None
        } else {
            Some(Spec::parse(&mut words, names, Some(&verdict.base(input)))?)
        };
        let mut words = Words::new(counters);
        words.expect("counters")?;
        let mut labels = Vec::new();
        while !words.is_empty() {
            let word = words.next()?;
            let known = crate::counters::all().find(|(label, _)| *label == word);
            match (word, known) {
                ("none", _) => {}
                (_, Some((label, _))) => labels.push(label),
                _ => return Err(format!("no counter {word:?}")),
            }
        }
        Ok(Expectation { verdict, packet, counters: labels })
    }

    /// The lines that [`Expectation::parse`] reads, for the result of a run; `expected` defines
    /// which numbers are variables.
    pub fn describe(
        run: &Run,
        names: &Names,
        input: &Spec,
        expected: Option<&Spec>,
        variables: &Variables,
    ) -> [String; 2] {
        let verdict = Verdict::of(run);
        let mut first = verdict.text(names);
        if run.data != run.frame {
            let base = verdict.base(input);
            match crate::Packet::read(&run.data) {
                Ok(packet) => {
                    let like = expected.unwrap_or(&base);
                    let spec = like.describe(&packet, variables);
                    first = format!("{first}  {}", spec.text(names, &base));
                }
                Err(e) => first = format!("{first}  ({e})"),
            }
        }
        let mut labels: Vec<&str> = run.counters.keys().copied().collect();
        // Translations before the outcome that they lead to.
        let outcomes = [Outcome::ToPod, Outcome::ToUplink, Outcome::ToStack, Outcome::Rejected];
        labels.sort_by_key(|label| outcomes.iter().any(|outcome| outcome.label() == *label));
        let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(" ") };
        [first, format!("counters  {labels}")]
    }
}
