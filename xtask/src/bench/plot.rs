//! The picture: bars of medians with their quartiles, as SVG. No I/O.

use super::report::{Load, Network, Series, spread};

const WIDTH: f64 = 900.0;
const BAR: f64 = 16.0;
const LEFT: f64 = 330.0;

/// One group per load and place, one bar per network and way, each scaled to its group's best.
pub fn svg(all: &[Series]) -> String {
    let mut body = String::new();
    let mut y = 40.0;
    for load in [Load::RequestResponse, Load::Connect, Load::Throughput] {
        for same_node in [true, false] {
            let group: Vec<&Series> =
                all.iter().filter(|s| s.load == load && s.same_node == same_node).collect();
            if group.is_empty() {
                continue;
            }
            let place = if same_node { "same node" } else { "across nodes" };
            body.push_str(&text(10.0, y, 14, &format!("{}, {place}", load.label())));
            y += 10.0;
            let best = group
                .iter()
                .flat_map(|s| s.direct.iter().chain(&s.cluster_ip))
                .fold(0.0_f64, |a, &b| a.max(b));
            for series in group {
                for (way, samples, shade) in
                    [("pod address", &series.direct, 1.0), ("ClusterIP", &series.cluster_ip, 0.6)]
                {
                    let Some(s) = spread(samples) else { continue };
                    let x = |v: f64| LEFT + (WIDTH - LEFT - 90.0) * v / best.max(1.0);
                    let (x0, x1) = (x(s.low), x(s.high));
                    let middle = y + BAR / 2.0;
                    body.push_str(&text(
                        30.0,
                        y + 12.0,
                        11,
                        &format!("{}, {way}", series.network.label()),
                    ));
                    body.push_str(&format!(
                        "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\" opacity=\"{shade}\"/>\n\
                         <line x1=\"{x0:.1}\" y1=\"{middle}\" x2=\"{x1:.1}\" y2=\"{middle}\" stroke=\"black\"/>\n",
                        x(s.median) - LEFT,
                        BAR - 3.0,
                        colour(series.network),
                    ));
                    let figure = load.show(s.median);
                    body.push_str(&text(x(s.high.max(s.median)) + 5.0, y + 12.0, 11, &figure));
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

fn colour(network: Network) -> &'static str {
    match network {
        Network::Sluice => "#1f77b4",
        Network::Iptables => "#d08030",
        Network::Nftables => "#8a8a8a",
    }
}
