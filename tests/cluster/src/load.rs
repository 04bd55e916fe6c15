//! Requests without pause, while a test changes the cluster.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use crate::Namespace;

/// Number of requests below which a load shows nothing.
const ENOUGH: usize = 50;

/// One request after the other from a pod, each with a new connection.
pub struct Load<'a> {
    namespace: &'a Namespace,
    pod: &'a str,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it began.
    pub began: SystemTime,
    /// The error, or the start of the response.
    pub error: String,
}

impl Failure {
    /// A line of the log: `FAILED <seconds since 1970> <error>`.
    fn parse(line: &str) -> Option<Failure> {
        let (seconds, error) = line.strip_prefix("FAILED ")?.split_once(' ')?;
        let since = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
        Some(Failure { began: SystemTime::UNIX_EPOCH + since, error: error.to_owned() })
    }
}

/// Sends requests at a fixed rate, each on a new connection and independent of the others; arguments:
/// address, requests per second.
const AT_RATE: &str = "\
import os, socket, sys, threading, time
results = []
def request():
    began = time.time()
    try:
        s = socket.create_connection((sys.argv[1], 80), 3)
        s.settimeout(3)
        s.sendall(b'GET /hostname HTTP/1.0\\r\\n\\r\\n')
        answer = b''
        while part := s.recv(4096):
            answer += part
        results.append('ok' if b' 200 ' in answer[:20] else 'FAILED %.3f %r' % (began, answer[:20]))
    except OSError as error:
        results.append('FAILED %.3f %r' % (began, error))
start, threads = time.monotonic(), []
while not os.path.exists('/tmp/stop'):
    threads.append(threading.Thread(target=request))
    threads[-1].start()
    time.sleep(max(0, start + len(threads) / int(sys.argv[2]) - time.monotonic()))
for thread in threads:
    thread.join()
open('/tmp/log', 'w').write('\\n'.join(results))
open('/tmp/done', 'w')
";

impl<'a> Load<'a> {
    /// Waits until the Service at `address` responds, then starts `rate` requests a second.
    #[track_caller]
    pub fn at_rate(namespace: &'a Namespace, pod: &'a str, address: &str, rate: u32) -> Load<'a> {
        namespace.sh_eventually(pod, &format!("curl -sf -m 3 http://{address}/hostname"));
        let script = format!(
            "rm -f /tmp/stop /tmp/log /tmp/done; cat > /tmp/load.py <<'END'\n{AT_RATE}END\n\
             python3 /tmp/load.py {address} {rate} > /tmp/err 2>&1 < /dev/null &"
        );
        namespace.sh(pod, &script).unwrap();
        Load { namespace, pod }
    }

    /// Waits until `url` responds, then starts the requests.
    #[track_caller]
    pub fn start(namespace: &'a Namespace, pod: &'a str, url: &str) -> Load<'a> {
        namespace.sh_eventually(pod, &format!("curl -sf -m 3 {url}"));
        let script = format!(
            "rm -f /tmp/stop /tmp/log /tmp/done; (while [ ! -e /tmp/stop ]; do \
             curl -sf -m 3 -o /dev/null {url} && echo ok || echo FAILED; \
             done > /tmp/log 2>&1; touch /tmp/done) > /dev/null 2>&1 < /dev/null &"
        );
        namespace.sh(pod, &script).unwrap();
        Load { namespace, pod }
    }

    /// Ends the requests and fails the test if one of them failed or there were too few.
    #[track_caller]
    pub fn expect_no_failure(self) {
        let failed = self.finish();
        assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), &failed[..failed.len().min(5)]);
    }

    /// As [`Load::finish`], of requests of [`Load::at_rate`], with their times.
    #[track_caller]
    pub fn failures(self) -> Vec<Failure> {
        self.finish()
            .iter()
            .map(|line| Failure::parse(line).unwrap_or_else(|| panic!("{line}")))
            .collect()
    }

    /// Ends the requests and returns the failed ones. Fails the test if there were too few.
    #[track_caller]
    pub fn finish(self) -> Vec<String> {
        let Load { namespace, pod } = self;
        namespace.sh(pod, "touch /tmp/stop").unwrap();
        namespace.sh_eventually(pod, "test -e /tmp/done");
        let log = namespace.sh(pod, "cat /tmp/log").unwrap();
        let (ok, failed): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| *line == "ok");
        assert!(ok.len() > ENOUGH, "{} requests are too few", ok.len());
        // To standard output itself, which libtest does not capture.
        let (all, lost) = (ok.len() + failed.len(), failed.len());
        let _ = writeln!(io::stdout().lock(), "\n    {all} requests of {pod}, {lost} failed");
        failed.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_has_the_time_at_which_the_request_began() {
        let failure = Failure::parse("FAILED 12.250 ConnectionRefusedError(111)").unwrap();
        assert_eq!(failure.began, SystemTime::UNIX_EPOCH + Duration::from_millis(12_250));
        assert_eq!(failure.error, "ConnectionRefusedError(111)");
        assert_eq!(Failure::parse("Traceback"), None);
    }
}
