//! The chart of a run: bars of medians with their intervals, as SVG. No I/O.

use super::report::{Load, Network, Series};
use super::statistics::{interval, median};

const WIDTH: f64 = 900.0;
const BAR: f64 = 16.0;
const LEFT: f64 = 330.0;
const RIGHT: f64 = 90.0;

/// One group per load and place, one bar per network and address. Each group has a scale of its
/// own, which ends at its largest sample.
pub fn svg(all: &[Series]) -> String {
    let mut body = String::new();
    let mut y = 40.0;
    for load in Load::ALL {
        for same_node in [true, false] {
            let group: Vec<&Series> =
                all.iter().filter(|s| s.load == load && s.same_node == same_node).collect();
            let Some(first) = group.first() else { continue };
            body.push_str(&text(10.0, y, 14, &format!("{}, {}", load.label(), first.place())));
            y += 10.0;
            let largest = group
                .iter()
                .flat_map(|s| s.pod_address.iter().chain(&s.cluster_ip))
                .flatten()
                .fold(1.0_f64, |a, &b| a.max(b));
            let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * value / largest;
            for series in group {
                for (address, samples, opacity) in [
                    ("pod address", &series.pod_address, 1.0),
                    ("ClusterIP", &series.cluster_ip, 0.6),
                ] {
                    let samples: Vec<f64> = samples.iter().copied().flatten().collect();
                    let Some(value) = median(&samples) else { continue };
                    let label = format!("{}, {address}", series.network.label());
                    body.push_str(&text(30.0, y + 12.0, 11, &label));
                    body.push_str(&format!(
                        "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\" opacity=\"{opacity}\"/>\n",
                        x(value) - LEFT,
                        BAR - 3.0,
                        color(series.network),
                    ));
                    let mut end = x(value);
                    if let Some(interval) = interval(&samples) {
                        let (low, high, middle) =
                            (x(interval.low), x(interval.high), y + BAR / 2.0);
                        body.push_str(&format!(
                            "<line x1=\"{low:.1}\" y1=\"{middle}\" x2=\"{high:.1}\" y2=\"{middle}\" stroke=\"black\"/>\n"
                        ));
                        end = end.max(high);
                    }
                    body.push_str(&text(end + 5.0, y + 12.0, 11, &load.format(value)));
                    y += BAR;
                }
            }
            y += 28.0;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" font-family=\"sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn text(x: f64, y: f64, size: u32, words: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\">{words}</text>\n")
}

fn color(network: Network) -> &'static str {
    match network {
        Network::Sluice => "#1f77b4",
        Network::Iptables => "#d08030",
        Network::Nftables => "#8a8a8a",
    }
}
